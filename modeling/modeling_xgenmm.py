"""xGen-MM (BLIP-3): images -> tiles -> features -> latents -> token stream -> logits.

Shapes: a batch of B prompts of L tokens holds num_images images in num_tiles tiles, (num_tiles, 3, S, S) flat, in
the order of the prompts. A tile has num_patches patches; a sampled chunk has num_latents tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .chunking_xgenmm import arrange_chunks, check, fits_prompt, resolve_num_tiles, split_tokens
from .compat_xgenmm import (
    LM_HEAD_TP_PLAN,
    MultimodalGenerationMixin,
    as_unsharded_class,
    build_vision_tower,
    checkpoints_gradients,
    merge_with_config_defaults,
)
from .configuration_xgenmm import XGenMMConfig, is_original_checkpoint
from .language_xgenmm import build_language_model
from .legacy_api_xgenmm import HubEraMixin
from .resampler_xgenmm import XGenMMResampler
from .targets_xgenmm import IGNORE_INDEX, count_without_images, without_image_targets


@dataclass
class XGenMMModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `XGenMMModel`.

    Args:
        image_hidden_states: The images' tokens, (total image tokens, text width).
    """

    image_hidden_states: torch.FloatTensor | None = None


@dataclass
class XGenMMCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of `XGenMMForConditionalGeneration`.

    Args:
        image_hidden_states: The images' tokens, (total image tokens, text width).
    """

    image_hidden_states: torch.FloatTensor | None = None


class XGenMMPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading of xGen-MM models."""

    config: XGenMMConfig
    config_class = XGenMMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["XGenMMResampler"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args: Any, **kwargs: Any):
        """Loads a checkpoint in our layout; see `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: If the folder holds a checkpoint in the original layout.
        """
        if is_original_checkpoint(pretrained_model_name_or_path, kwargs):
            raise ValueError(
                f"{pretrained_model_name_or_path} is a checkpoint in the original layout; convert it first: "
                f"xgenmm convert {pretrained_model_name_or_path} OUT"
            )
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Saves a self-contained folder, also of a sharded model; see `PreTrainedModel.save_pretrained`."""
        with as_unsharded_class(self):
            super().save_pretrained(*args, **kwargs)


class XGenMMModel(XGenMMPreTrainedModel):
    """Vision tower, resampler and language model, without the head.

    Args:
        config: The model's config.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: XGenMMConfig):
        super().__init__(config)
        self.vision_tower = build_vision_tower(config.vision_config)
        self.resampler = XGenMMResampler(config.resampler_config, config.text_config.hidden_size)
        self.language_model = build_language_model(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Returns the language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_decoder(self) -> nn.Module:
        """Returns the language model."""
        return self.language_model

    def set_decoder(self, decoder: nn.Module) -> None:
        """Replaces the language model."""
        self.language_model = decoder

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        image_num_tiles: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Computes the tokens that images take in the prompt.

        Args:
            pixel_values: All tiles of all images, (num_tiles, channels, S, S).
            image_sizes: Image sizes in pixels as (height, width), (num_images, 2). Needed for images of more
                than one tile.
            image_num_tiles: Tiles an image, (num_images,). Default: counted from `image_sizes`, or one per image.
            **kwargs: Passed to the vision tower (`output_hidden_states`, `output_attentions`, ...).

        Returns:
            `last_hidden_state` of the vision tower, (num_tiles, patches, width), and in `pooler_output` a list of one
            (tokens, text width) tensor per image.

        Raises:
            ValueError: If tiles, sizes and counts do not fit each other.
        """
        image_num_tiles = resolve_num_tiles(
            self.config, pixel_values.shape[0], image_sizes, image_num_tiles, pixel_values.device
        )
        outputs = self.get_vision_features(pixel_values, **kwargs)
        tokens = self.sample_tokens(outputs.last_hidden_state, image_sizes, image_num_tiles)
        outputs.pooler_output = split_tokens(self.config, tokens, image_num_tiles)
        return outputs

    def get_vision_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Runs the vision tower; a frozen one keeps no graph, also where a hook made its embeddings differentiable.

        Args:
            pixel_values: All tiles of all images, (num_tiles, channels, S, S).
            **kwargs: Passed to the vision tower.

        Returns:
            The tower's output, `last_hidden_state` of it (num_tiles, patches, width).
        """
        trained = any(weight.requires_grad for weight in self.vision_tower.parameters())
        if trained and checkpoints_gradients(self.vision_tower) and not pixel_values.requires_grad:
            # re-entrant checkpointing gives an adapter in a layer no gradient unless the layer's input has one
            pixel_values = pixel_values.detach().requires_grad_()
        with torch.set_grad_enabled((trained or pixel_values.requires_grad) and torch.is_grad_enabled()):
            return self.vision_tower(pixel_values, return_dict=True, **kwargs)

    def sample_tokens(
        self, features: torch.Tensor, image_sizes: torch.Tensor | None, image_num_tiles: torch.Tensor
    ) -> torch.Tensor:
        """Turns the tower's features (num_tiles, patches, width) into (total image tokens, text width)."""
        chunks = arrange_chunks(self.config, self._patch_features(features), image_sizes, image_num_tiles)
        return self.resampler(*chunks).flatten(0, 1)

    def _patch_features(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the patches' features after the tower's final norm, without a class token."""
        if not isinstance(self.config.vision_config, CLIPVisionConfig):
            return features
        # the library's CLIP normalises only the class token
        return self.vision_tower.vision_model.post_layernorm(features[:, 1:])

    def image_token_mask(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Finds the image tokens of a batch.

        Args:
            input_ids: (B, L), or None.
            inputs_embeds: (B, L, text width); read where there are no ids.

        Returns:
            True at image tokens, (B, L).
        """
        if input_ids is not None and (input_ids.numel() or inputs_embeds is None):
            return input_ids == self.config.image_token_id
        image_token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(image_token)).all(-1)

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_sizes: torch.LongTensor | None = None,
        image_num_tiles: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        image_repeats: int = 1,
        **kwargs: Any,
    ) -> XGenMMModelOutputWithPast:
        """Reads prompts with images.

        Args:
            input_ids: Prompts with every `<image>` expanded to the image's tokens, (B, L).
            pixel_values: All tiles of all images, (num_tiles, channels, S, S).
            image_sizes: Image sizes in pixels as (height, width), (num_images, 2).
            image_num_tiles: Tiles an image, (num_images,).
            attention_mask: 1 on real tokens, (B, L).
            position_ids: (B, L).
            past_key_values: The cache.
            inputs_embeds: In place of `input_ids`, (B, L, text width).
            use_cache: Whether to return a cache.
            mm_encoder_outputs: `{"image": output of get_image_features}` in place of `pixel_values`; without a
                `pooler_output` its `last_hidden_state` is sampled, and `image_sizes` and `image_num_tiles` are needed.
            image_repeats: How often all images are shown; 2 where chosen and rejected rows share them.
            **kwargs: Passed to the language model.

        Returns:
            The language model's output and the images' tokens.

        Raises:
            ValueError: If the inputs do not fit each other.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either input_ids or inputs_embeds, not both and not neither.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        images = (pixel_values, image_sizes, image_num_tiles, mm_encoder_outputs)
        shown = pixel_values is not None or mm_encoder_outputs is not None
        mask = self.image_token_mask(input_ids, inputs_embeds) if shown else None
        tokens = self._image_tokens(*images, mask, image_repeats)
        if tokens is not None:
            repeated = tokens.repeat(image_repeats, 1).to(inputs_embeds)
            inputs_embeds = inputs_embeds.masked_scatter(mask.unsqueeze(-1), repeated)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        return XGenMMModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=tokens,
        )

    def _image_tokens(
        self,
        pixel_values: torch.Tensor | None,
        image_sizes: torch.Tensor | None,
        image_num_tiles: torch.Tensor | None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None,
        mask: torch.Tensor | None = None,
        repeats: int = 1,
    ) -> torch.Tensor | None:
        """Returns the images' tokens, (total image tokens, text width), computed or given.

        Everything is checked before the tower runs, so that the host never waits for the tower.
        """
        encoded = (mm_encoder_outputs or {}).get("image")
        if encoded is not None and pixel_values is not None:
            raise ValueError("Pass either pixel_values or mm_encoder_outputs, not both.")
        if encoded is not None and encoded.pooler_output is not None:
            tokens = torch.cat(list(encoded.pooler_output))
            if mask is not None:
                check(fits_prompt(tokens.shape[0] * repeats, mask))
            return tokens
        source = pixel_values if encoded is None else encoded.last_hidden_state
        if source is None or source.shape[0] == 0:
            return None
        image_num_tiles = resolve_num_tiles(
            self.config, source.shape[0], image_sizes, image_num_tiles, source.device, mask, repeats
        )
        features = source if encoded is not None else self.get_vision_features(pixel_values).last_hidden_state
        return self.sample_tokens(features, image_sizes, image_num_tiles)


class XGenMMForConditionalGeneration(HubEraMixin, XGenMMPreTrainedModel, MultimodalGenerationMixin):
    """xGen-MM with its language-model head (a linear layer with bias).

    Args:
        config: The model's config.
    """

    _auto_class = "AutoModelForImageTextToText"
    _tp_plan = LM_HEAD_TP_PLAN
    prompt_inputs = ("pixel_values", "image_sizes", "image_num_tiles", "mm_encoder_outputs")

    def __init__(self, config: XGenMMConfig):
        super().__init__(config)
        self.model = XGenMMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=True)
        self.post_init()

    @property
    def vision_tower(self) -> nn.Module:
        """The vision tower."""
        return self.model.vision_tower

    @property
    def language_model(self) -> nn.Module:
        """The language model without its head."""
        return self.model.language_model

    def get_input_embeddings(self) -> nn.Module:
        """Returns the language model's token embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the language model's token embeddings."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Returns the head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replaces the head."""
        self.lm_head = value

    def get_decoder(self) -> nn.Module:
        """Returns the language model."""
        return self.model.get_decoder()

    def set_decoder(self, decoder: nn.Module) -> None:
        """Replaces the language model."""
        self.model.set_decoder(decoder)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        image_num_tiles: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Computes the tokens that images take in the prompt; see `XGenMMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, image_sizes, image_num_tiles, **kwargs)

    def get_vision_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Runs the vision tower; see `XGenMMModel.get_vision_features`."""
        return self.model.get_vision_features(pixel_values, **kwargs)

    def image_token_mask(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Finds the image tokens of a batch; see `XGenMMModel.image_token_mask`."""
        return self.model.image_token_mask(input_ids, inputs_embeds)

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_sizes: torch.LongTensor | None = None,
        image_num_tiles: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> XGenMMCausalLMOutputWithPast:
        """Predicts the next tokens of prompts with images.

        Args:
            input_ids: Prompts with every `<image>` expanded to the image's tokens, (B, L).
            pixel_values: All tiles of all images, (num_tiles, channels, S, S).
            image_sizes: Image sizes in pixels as (height, width), (num_images, 2).
            image_num_tiles: Tiles an image, (num_images,).
            attention_mask: 1 on real tokens, (B, L).
            position_ids: (B, L).
            past_key_values: The cache.
            inputs_embeds: In place of `input_ids`, (B, L, text width).
            labels: Target ids, (B, L), -100 where there is none; image tokens never count.
            use_cache: Whether to return a cache.
            logits_to_keep: Compute the logits of the last that many positions (0: all), or of the given ones.
            mm_encoder_outputs: `{"image": output of get_image_features}` in place of `pixel_values`.
            **kwargs: Passed on to `XGenMMModel` (`image_repeats`, ...) and the loss (`num_items_in_batch`, ...).

        Returns:
            Loss (if `labels`), logits (B, kept positions, vocabulary), cache, and the images' tokens.

        Raises:
            ValueError: If the inputs do not fit each other.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            image_num_tiles=image_num_tiles,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        return XGenMMCausalLMOutputWithPast(
            loss=self._loss(logits, labels, input_ids, **kwargs),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor | None, input_ids: torch.Tensor | None, **kwargs: Any
    ) -> torch.Tensor | None:
        """Computes next-token cross-entropy on text tokens."""
        name = "labels" if kwargs.get("shift_labels") is None else "shift_labels"
        given = {"labels": labels, **kwargs}[name]
        if given is None:
            return None
        image_token_id = self.config.image_token_id
        targets = without_image_targets(given, image_token_id)
        if name == "labels" and input_ids is not None:
            targets = targets.masked_fill((input_ids == image_token_id).to(targets.device), IGNORE_INDEX)
        if kwargs.get("num_items_in_batch") is not None:
            kwargs["num_items_in_batch"] = count_without_images(kwargs["num_items_in_batch"], given, targets)
        vocab_size = self.config.text_config.vocab_size
        return self.loss_function(logits=logits, vocab_size=vocab_size, **{"labels": labels, **kwargs, name: targets})
