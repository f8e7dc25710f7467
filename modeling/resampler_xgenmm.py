"""The perceiver resampler: a tile's features become a fixed number of tokens of the language model's width.

Shapes: (num_chunks, num_patches, hidden_size) features and (num_chunks, num_queries, hidden_size) queries; a chunk is
what is sampled together: a tile, or with fixed sampling a whole image. The queries are num_latents latents, in the
first release followed by the prompt's text.

Source: BLIP-3 report, section 2 (token sampling); Flamingo (arXiv 2204.14198), appendix A.1.1.
"""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.siglip.modeling_siglip import eager_attention_forward

from .compat_xgenmm import AnyAttentionModel, checkpoints_gradients, initialization
from .configuration_xgenmm import XGenMMResamplerConfig
from .text_queries_xgenmm import TextQueries


def chosen_attention(config: XGenMMResamplerConfig, output_attentions: bool = False) -> str:
    """Returns the attention implementation of the resampler.

    Only eager attention returns weights. FlexAttention needs block masks and compiles a kernel for every shape, which
    fails on a CPU; SDPA computes the same on every device.
    """
    if output_attentions:
        return "eager"
    return "sdpa" if config._attn_implementation == "flex_attention" else config._attn_implementation


class XGenMMResamplerAttention(nn.Module):
    """Attention of the latents over features and latents together."""

    def __init__(self, config: XGenMMResamplerConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = False
        inner_size = config.num_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner_size, bias=False)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * inner_size, bias=False)
        self.out_proj = nn.Linear(inner_size, config.hidden_size, bias=False)

    def forward(
        self,
        features: torch.Tensor,
        latents: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attends from queries (num_chunks, num_queries, hidden_size) to [features ; queries], both normalised.

        `attention_mask` has the form that the attention implementation takes. Returns the output, (num_chunks,
        num_queries, hidden_size), and the weights where the implementation has them.
        """
        inputs = torch.cat([features, latents], dim=1)
        query = self._split_heads(self.q_proj(latents))
        key, value = (self._split_heads(half) for half in self.kv_proj(inputs).chunk(2, dim=-1))
        attend = eager_attention_forward
        implementation = chosen_attention(self.config, output_attentions)
        if implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[implementation]
        options = {"scaling": self.scaling, "dropout": 0.0, "is_causal": False, **kwargs}
        output, weights = attend(self, query, key, value, attention_mask, **options)
        return self.out_proj(output.flatten(2)), weights

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


class XGenMMResamplerMLP(nn.Module):
    """Linear, exact GELU, Linear: the feed-forward part of a block, and the projection of the prompt's embeddings."""

    def __init__(self, input_size: int, inner_size: int, output_size: int, bias: bool):
        super().__init__()
        self.fc1 = nn.Linear(input_size, inner_size, bias=bias)
        self.act_fn = ACT2FN["gelu"]
        self.fc2 = nn.Linear(inner_size, output_size, bias=bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Maps (..., input_size) to (..., output_size)."""
        return self.fc2(self.act_fn(self.fc1(states)))


class XGenMMResamplerLayer(GradientCheckpointingLayer):
    """A resampler block: attention, then feed-forward, each added to the latents."""

    def __init__(self, config: XGenMMResamplerConfig):
        super().__init__()
        self.media_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.latents_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = XGenMMResamplerAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        width = config.hidden_size
        self.mlp = XGenMMResamplerMLP(width, config.ff_mult * width, width, bias=False)

    def forward(
        self, latents: torch.Tensor, features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Updates the queries, (num_chunks, num_queries, hidden_size); returns them and the attention weights."""
        update, weights = self.attention(
            self.media_norm(features), self.latents_norm(latents), attention_mask, **kwargs
        )
        latents = latents + update
        return latents + self.mlp(self.mlp_norm(latents)), weights


class XGenMMResampler(AnyAttentionModel):
    """Samples chunks of features into `num_latents` tokens each, of the language model's width (`output_size`).

    It is a separate model so that the library sets its attention implementation as it does for the other parts.
    """

    config: XGenMMResamplerConfig
    config_class = XGenMMResamplerConfig
    main_input_name = "features"
    _no_split_modules = ["XGenMMResampler"]

    def __init__(self, config: XGenMMResamplerConfig, output_size: int):
        super().__init__(config)
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.hidden_size))
        self.layers = nn.ModuleList([XGenMMResamplerLayer(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, output_size)
        if config.text_conditioned:
            width = config.hidden_size
            self.text_projection = XGenMMResamplerMLP(output_size, width, width, bias=True)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # it is looked up by name in every call

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, XGenMMResampler):
            initialization.normal_(module.latents)

    def forward(
        self,
        features: torch.Tensor,
        visible: torch.Tensor | None = None,
        text: TextQueries | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Samples features, (num_chunks, num_patches, hidden_size), except those where `visible` is False.

        `text` are further queries, needed if and only if the config is `text_conditioned`; `kwargs` go to the
        attention implementation. Returns tokens, (num_chunks, num_latents, output_size), as `last_hidden_state`; on
        request `hidden_states`, the queries before and after each block and before the final norm, (num_chunks,
        num_queries, hidden_size), and `attentions`, (num_chunks, num_heads, num_queries, num_patches + num_queries).
        """
        latents = self.latents.unsqueeze(0).expand(features.shape[0], -1, -1)
        text_visible = None
        if self.config.text_conditioned:
            latents, text_visible = self._with_text(latents, text)
        if checkpoints_gradients(self) and torch.is_grad_enabled() and not latents.requires_grad:
            # re-entrant checkpointing gives an adapter in a layer no gradient unless the layer's input has one
            latents = latents.detach().requires_grad_(any(weight.requires_grad for weight in self.parameters()))
        if visible is None and text_visible is not None:
            visible = torch.ones(features.shape[:2], dtype=torch.bool, device=latents.device)
        attention_mask = None
        if visible is not None:
            attention_mask = self._attention_mask(visible, latents, text_visible, output_attentions)
        states, weights = [latents], []
        kwargs["output_attentions"] = output_attentions
        for layer in self.layers:
            latents, layer_weights = layer(latents, features, attention_mask, **kwargs)
            if output_hidden_states:
                states.append(latents)
            if output_attentions:
                weights.append(layer_weights)
        tokens = self.projection(self.norm(latents[:, : self.config.num_latents]))
        return BaseModelOutput(
            last_hidden_state=tokens,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )

    def _with_text(self, latents: torch.Tensor, text: TextQueries | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends the text to the latents; also returns the text's mask, False on padding, (num_chunks, T)."""
        if text is None:
            raise ValueError(
                "This checkpoint reads images together with the prompt; call the model with both, or pass prompt_ids "
                "to get_image_features."
            )
        embeds, visible = self.text_projection(text.embeds.to(latents)), text.visible.to(latents.device)
        if text.image is not None:
            embeds, visible = embeds[text.image], visible[text.image]
        return torch.cat([latents, embeds], dim=1), visible

    def _attention_mask(
        self, visible: torch.Tensor, queries: torch.Tensor, text_visible: torch.Tensor | None, output_attentions: bool
    ) -> torch.Tensor:
        """Puts the mask over [features ; queries] into the form of the attention implementation."""
        keys = nn.functional.pad(visible, (0, self.config.num_latents), value=True)
        if text_visible is not None:
            keys = torch.cat([keys, text_visible], dim=1)
        implementation = chosen_attention(self.config, output_attentions)
        if "flash" in implementation:
            return keys.long()
        keys = keys[:, None, None, :].expand(-1, 1, queries.shape[1], -1)
        if implementation == "sdpa":
            return keys
        lowest = torch.finfo(queries.dtype).min
        return torch.zeros_like(keys, dtype=queries.dtype).masked_fill(~keys, lowest)
