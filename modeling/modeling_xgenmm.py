"""xGen-MM (BLIP-3): images -> tiles -> features -> latents -> token stream -> logits.

Shapes: a batch of B prompts of L tokens holds num_images images in num_tiles tiles, (num_tiles, 3, S, S) flat, in
the order of the prompts. A tile has num_patches patches; a sampled chunk has num_latents tokens.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .chunking_xgenmm import Condition  # noqa: F401 (4.57 fetches only the code files that this one imports)
from .compat_xgenmm import (
    CACHE_NAME,
    LM_HEAD_TP_PLAN,
    AnyAttentionModel,
    as_own_class,
    build_vision_tower,
    merge_with_config_defaults,
    warns_of_old_cache_name,
)
from .configuration_xgenmm import XGenMMConfig, is_original_checkpoint
from .generation_xgenmm import MultimodalGenerationMixin
from .image_reading_xgenmm import ImageReadingMixin
from .images_xgenmm import normalize_tiles  # noqa: F401 (the same)
from .language_xgenmm import build_language_model
from .legacy_api_xgenmm import HubEraMixin
from .outputs_xgenmm import XGenMMCausalLMOutputWithPast, XGenMMImageOutput, XGenMMModelOutputWithPast, asked_states
from .resampler_xgenmm import XGenMMResampler
from .targets_xgenmm import IGNORE_INDEX, count_without_images, without_image_targets
from .text_queries_xgenmm import NO_PROMPT_END, prompt_mask_of


class XGenMMPreTrainedModel(AnyAttentionModel):
    """Weight initialisation and loading of xGen-MM models."""

    config: XGenMMConfig
    config_class = XGenMMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    _no_split_modules = ["XGenMMResampler"]
    _skip_keys_device_placement = ["past_key_values"]
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Loads a checkpoint in our layout; see `PreTrainedModel.from_pretrained`."""
        if is_original_checkpoint(pretrained_model_name_or_path, kwargs):
            raise ValueError(
                f"{pretrained_model_name_or_path} is a checkpoint in the original layout; convert it first: "
                f"xgenmm convert {pretrained_model_name_or_path} OUT"
            )
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        unused = sorted(
            name for name in info["unexpected_keys"] if hasattr(model, "lm_head") or "lm_head." not in name
        )
        # If nothing fits at all, the library warns that every weight is missing, as for any other model.
        if unused and len(info["missing_keys"]) < len(model.state_dict()):
            rest = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
            raise ValueError(
                f"{pretrained_model_name_or_path} holds {len(unused)} weights that its config has no place for "
                f"({', '.join(unused[:5])}{rest}); check the sizes in its config.json, or fetch it again."
            )
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Saves a self-contained folder, also of a sharded model; see `PreTrainedModel.save_pretrained`."""
        super(XGenMMPreTrainedModel, as_own_class(self)).save_pretrained(*args, **kwargs)


class XGenMMModel(ImageReadingMixin, XGenMMPreTrainedModel):
    """Vision tower, resampler and language model, without the head.

    Args:
        config: The model's config.

    Example:
        ```python
        >>> import torch
        >>> from PIL import Image
        >>> from xgenmm_hf import TINY_MODEL, XGenMMModel, XGenMMProcessor
        >>> model = XGenMMModel.from_pretrained(TINY_MODEL, dtype=torch.float32)
        >>> processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
        >>> inputs = processor(Image.new("RGB", (64, 64)), "<image>What is this?", return_tensors="pt")
        >>> model(**inputs).last_hidden_state.shape[1:] == (inputs["input_ids"].shape[1], 128)
        True
        ```
    """

    _auto_class = "AutoModel"

    def __init__(self, config: XGenMMConfig):
        super().__init__(config)
        self.vision_tower = build_vision_tower(config.vision_config)
        self.resampler = XGenMMResampler(config.resampler_config, config.text_config.hidden_size)
        self.language_model = build_language_model(config)
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

    @merge_with_config_defaults
    @can_return_tuple
    @warns_of_old_cache_name
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
        prompt_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> XGenMMModelOutputWithPast:
        """Reads prompts with images.

        Args:
            input_ids: Prompts with every `<image>` expanded to the image's tokens, (B, L).
            pixel_values: All tiles of all images, (num_tiles, channels, S, S).
            image_sizes: Image sizes in pixels as (height, width), (num_images, 2).
            image_num_tiles: Tiles per image, (num_images,).
            attention_mask: 1 on real tokens, (B, L).
            position_ids: (B, L).
            past_key_values: The cache.
            inputs_embeds: In place of `input_ids`, (B, L, text width).
            use_cache: Whether to return a cache.
            mm_encoder_outputs: `{"image": output of get_image_features}` in place of `pixel_values`; without a
                `pooler_output` its `last_hidden_state` is sampled, and `image_sizes` and `image_num_tiles` are needed.
            image_repeats: How often all images are shown; 2 if chosen and rejected rows share them.
            prompt_mask: True at tokens that images may be read with (first release), (B, L). Default: all real tokens.
            cache: Another name for `past_key_values`.
            **kwargs: Passed to the language model; `output_hidden_states` and `output_attentions` also to the vision
                tower and the resampler.

        Returns:
            The language model's output, the images' tokens and, on request, the images' states.

        Raises:
            ValueError: If the inputs do not fit each other.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        tokens = outputs = None
        if pixel_values is not None or mm_encoder_outputs is not None:
            images = {
                "pixel_values": pixel_values,
                "image_sizes": image_sizes,
                "image_num_tiles": image_num_tiles,
                "mm_encoder_outputs": mm_encoder_outputs,
            }
            mask = self.image_token_mask(input_ids, inputs_embeds)
            if self.config.resampler_config.text_conditioned and prompt_mask is None:
                if self.training and torch.is_grad_enabled():
                    raise ValueError(NO_PROMPT_END)
                prompt_mask = prompt_mask_of(attention_mask, mask)
            states = asked_states(kwargs, self.config)
            tokens, outputs = self._read_images(images, inputs_embeds, mask, prompt_mask, image_repeats, states)
        if tokens is not None:
            shown = tokens.repeat(1 if self.config.resampler_config.text_conditioned else image_repeats, 1)
            inputs_embeds = inputs_embeds.masked_scatter(mask.unsqueeze(-1), shown.to(inputs_embeds))
        text = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE_NAME: past_key_values if cache is None else cache},
            **kwargs,
        )
        return XGenMMModelOutputWithPast(
            last_hidden_state=text.last_hidden_state,
            hidden_states=text.hidden_states,
            attentions=text.attentions,
            image_hidden_states=tokens,
            image_outputs=outputs,
            **{CACHE_NAME: text.get(CACHE_NAME)},
        )


class XGenMMForConditionalGeneration(HubEraMixin, XGenMMPreTrainedModel, MultimodalGenerationMixin):
    """xGen-MM with its language-model head (a linear layer with bias).

    Args:
        config: The model's config.

    Example:
        ```python
        >>> import torch
        >>> from PIL import Image
        >>> from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
        >>> model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
        >>> processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
        >>> image = {"type": "image", "image": Image.new("RGB", (64, 64))}
        >>> messages = [{"role": "user", "content": [image, {"type": "text", "text": "What is this?"}]}]
        >>> options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        >>> inputs = processor.apply_chat_template(messages, **options)
        >>> output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        >>> isinstance(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True), str)
        True
        ```
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

    def set_decoder(self, decoder: nn.Module) -> None:
        """Replaces the language model."""
        self.model.set_decoder(decoder)

    def get_image_features(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> XGenMMImageOutput:
        """Computes the tokens that images take in the prompt; see `XGenMMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, *args, **kwargs)

    def get_vision_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Runs the vision tower; see `XGenMMModel.get_vision_features`."""
        return self.model.get_vision_features(pixel_values, **kwargs)

    def image_token_mask(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Finds the image tokens of a batch; see `XGenMMModel.image_token_mask`."""
        return self.model.image_token_mask(input_ids, inputs_embeds)

    @merge_with_config_defaults
    @can_return_tuple
    @warns_of_old_cache_name
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
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> XGenMMCausalLMOutputWithPast:
        """Predicts the next tokens of prompts with images.

        Args:
            input_ids: Prompts with every `<image>` expanded to the image's tokens, (B, L).
            pixel_values: All tiles of all images, (num_tiles, channels, S, S).
            image_sizes: Image sizes in pixels as (height, width), (num_images, 2).
            image_num_tiles: Tiles per image, (num_images,).
            attention_mask: 1 on real tokens, (B, L).
            position_ids: (B, L).
            past_key_values: The cache.
            inputs_embeds: In place of `input_ids`, (B, L, text width).
            labels: Target ids, (B, L), -100 where there is none; image tokens never count.
            use_cache: Whether to return a cache.
            logits_to_keep: Compute the logits of the last that many positions (0: all), or of the given ones.
            mm_encoder_outputs: `{"image": output of get_image_features}` in place of `pixel_values`.
            cache: Another name for `past_key_values`.
            **kwargs: Passed on to `XGenMMModel` (`image_repeats`, ...) and the loss (`num_items_in_batch`, ...).

        Returns:
            Loss (if `labels`), logits (B, kept positions, vocabulary), cache, and the images' tokens.

        Raises:
            ValueError: If the inputs do not fit each other.
        """
        if labels is not None and self.config.resampler_config.text_conditioned and "prompt_mask" not in kwargs:
            image_mask = self.image_token_mask(input_ids, inputs_embeds)
            kwargs["prompt_mask"] = prompt_mask_of(attention_mask, image_mask, labels)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            image_num_tiles=image_num_tiles,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **{CACHE_NAME: past_key_values if cache is None else cache},
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        return XGenMMCausalLMOutputWithPast(
            loss=self._loss(logits, labels, input_ids, **kwargs),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            image_outputs=outputs.image_outputs,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
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
