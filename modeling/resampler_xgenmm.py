"""The perceiver resampler: a tile's features become a fixed number of tokens of the language model's width.

Shapes: (num_chunks, num_patches, hidden_size) features and (num_chunks, num_latents, hidden_size) latents; a chunk is
what is sampled together: a tile, or with fixed sampling a whole image.

Source: BLIP-3 report, section 2 (token sampling); Flamingo (arXiv 2204.14198), appendix A.1.1.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .compat_xgenmm import checkpoints_gradients, initialization
from .configuration_xgenmm import XGenMMResamplerConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes attention with plain matrix products.

    Args:
        module: The attention module (unused; part of the interface).
        query: (num_chunks, num_heads, num_latents, head_dim).
        key: (num_chunks, num_heads, num_keys, head_dim).
        value: (num_chunks, num_heads, num_keys, head_dim).
        attention_mask: Added to the scores, broadcastable to (num_chunks, num_heads, num_latents, num_keys).
        scaling: Factor of the scores.
        dropout: Unused; the resampler has none.
        **kwargs: Unused; part of the interface.

    Returns:
        Output (num_chunks, num_latents, num_heads, head_dim) and weights (num_chunks, num_heads, num_latents,
        num_keys).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class XGenMMResamplerAttention(nn.Module):
    """Attention of the latents over features and latents together.

    Args:
        config: The resampler's config.
    """

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
        self, features: torch.Tensor, latents: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attends.

        Args:
            features: Normalised features, (num_chunks, num_patches, hidden_size).
            latents: Normalised latents, (num_chunks, num_latents, hidden_size).
            attention_mask: Mask over [features ; latents] in the form that the attention implementation takes.
            **kwargs: Passed to the attention implementation.

        Returns:
            Output (num_chunks, num_latents, hidden_size) and the attention weights where the implementation has them.
        """
        inputs = torch.cat([features, latents], dim=1)
        query = self._split_heads(self.q_proj(latents))
        key, value = (self._split_heads(half) for half in self.kv_proj(inputs).chunk(2, dim=-1))
        attend = eager_attention_forward
        if self.config._attn_implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=0.0,
            is_causal=False,
            **kwargs,
        )
        return self.out_proj(output.flatten(2)), weights

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


class XGenMMResamplerMLP(nn.Module):
    """The feed-forward part of a block: bias-free, exact GELU.

    Args:
        config: The resampler's config.
    """

    def __init__(self, config: XGenMMResamplerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.ff_mult * config.hidden_size, bias=False)
        self.act_fn = ACT2FN["gelu"]
        self.fc2 = nn.Linear(config.ff_mult * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Maps (..., hidden_size) to (..., hidden_size)."""
        return self.fc2(self.act_fn(self.fc1(latents)))


class XGenMMResamplerLayer(GradientCheckpointingLayer):
    """A resampler block: attention, then feed-forward, each added to the latents.

    Args:
        config: The resampler's config.
    """

    def __init__(self, config: XGenMMResamplerConfig):
        super().__init__()
        self.media_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.latents_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = XGenMMResamplerAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = XGenMMResamplerMLP(config)

    def forward(
        self, latents: torch.Tensor, features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Updates the latents, (num_chunks, num_latents, hidden_size)."""
        update, _ = self.attention(self.media_norm(features), self.latents_norm(latents), attention_mask, **kwargs)
        latents = latents + update
        return latents + self.mlp(self.mlp_norm(latents))


class XGenMMResampler(PreTrainedModel):
    """Samples chunks of features into `num_latents` tokens each.

    It is a model of its own so that the library sets its attention implementation like the other parts'.

    Args:
        config: The resampler's config.
        output_size: Width of the language model.
    """

    config: XGenMMResamplerConfig
    config_class = XGenMMResamplerConfig
    main_input_name = "features"
    supports_gradient_checkpointing = True
    _no_split_modules = ["XGenMMResampler"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: XGenMMResamplerConfig, output_size: int):
        super().__init__(config)
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.hidden_size))
        self.layers = nn.ModuleList([XGenMMResamplerLayer(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, output_size)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # it is looked up by name in every call

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, XGenMMResampler):
            initialization.normal_(module.latents)

    def forward(self, features: torch.Tensor, visible: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Samples.

        Args:
            features: (num_chunks, num_patches, hidden_size).
            visible: False on features that must not be seen, (num_chunks, num_patches). Latents are always seen.
            **kwargs: Passed to the attention implementation.

        Returns:
            Tokens, (num_chunks, num_latents, output_size).
        """
        latents = self.latents.unsqueeze(0).expand(features.shape[0], -1, -1)
        if checkpoints_gradients(self) and torch.is_grad_enabled() and not latents.requires_grad:
            # re-entrant checkpointing gives an adapter in a layer no gradient unless the layer's input has one
            latents = latents.detach().requires_grad_(any(weight.requires_grad for weight in self.parameters()))
        attention_mask = self._attention_mask(visible, latents)
        for layer in self.layers:
            latents = layer(latents, features, attention_mask, **kwargs)
        return self.projection(self.norm(latents))

    def _attention_mask(self, visible: torch.Tensor | None, latents: torch.Tensor) -> torch.Tensor | None:
        """Puts the mask over [features ; latents] into the form of the attention implementation."""
        if visible is None:
            return None
        keys = nn.functional.pad(visible, (0, latents.shape[1]), value=True)
        implementation = self.config._attn_implementation
        if "flash" in implementation:
            return keys.long()
        keys = keys[:, None, None, :].expand(-1, 1, latents.shape[1], -1)
        if implementation == "sdpa":
            return keys
        lowest = torch.finfo(latents.dtype).min
        return torch.zeros_like(keys, dtype=latents.dtype).masked_fill(~keys, lowest)
