"""Generation with images: each image is encoded once per prompt, unless the cache already holds its tokens."""

from typing import Any

import torch
from transformers import GenerationMixin

from .chunking_xgenmm import check, fits_prompt, image_lengths, resolve_num_tiles
from .compat_xgenmm import CACHE_NAME, IS_V5, is_prefill
from .configuration_xgenmm import XGenMMConfig


class MultimodalGenerationMixin(GenerationMixin):
    """Generation that encodes the images before beams or return sequences multiply the prompt.

    The images' tokens are passed as `mm_encoder_outputs`, their name in 5.x. A subclass lists the inputs that belong
    to the prompt in `prompt_inputs`, and defines `get_image_features` and `image_token_mask`.
    """

    prompt_inputs: tuple[str, ...] = ()

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Generates tokens and returns them after the prompt's, (B, L + new); see `GenerationMixin.generate`.

        With a cache (`past_key_values`), only images after the cached part are read.
        """
        if "past_key_values" in kwargs:  # renamed for the running version
            kwargs.setdefault(CACHE_NAME, kwargs.pop("past_key_values"))
        input_ids, embeds = kwargs.get("input_ids", inputs), kwargs.get("inputs_embeds")
        if kwargs.get("pixel_values") is not None and (input_ids is not None or embeds is not None):
            images = {name: kwargs.pop(name, None) for name in self.prompt_inputs}
            if images.pop("mm_encoder_outputs") is not None:
                raise ValueError("Pass either pixel_values or mm_encoder_outputs, not both.")
            start, prompt = cached_length(kwargs, input_ids), {}
            if self.config.resampler_config.text_conditioned:
                mask = kwargs.get("attention_mask")
                prompt = {"prompt_ids": input_ids, "prompt_embeds": embeds, "prompt_mask": mask}
            if start and prompt:
                raise ValueError(
                    "This checkpoint reads an image with its whole prompt, so it cannot continue from a cache of the "
                    "prompt's first part; call generate without past_key_values."
                )
            if start:
                images = drop_cached_images(self.config, images, self.image_token_mask(input_ids, embeds), start)
            if images["pixel_values"].shape[0]:
                encoded = self.get_image_features(**images, **prompt, return_dict=True)
                kwargs["mm_encoder_outputs"] = {"image": encoded}
            if not IS_V5:
                kwargs["prompt_start"] = start
        return super().generate(inputs, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, prompt_start: int = 0, **kwargs: Any
    ) -> dict[str, Any]:
        """Prepares a step's inputs; only the first step gets the prompt's images, or every step without a cache."""
        model_inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if is_prefill(kwargs, prompt_start) or kwargs.get("use_cache") is False:
            return model_inputs
        return {name: value for name, value in model_inputs.items() if name not in self.prompt_inputs}

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        outputs = (model_kwargs.get("mm_encoder_outputs") or {}).get("image")
        if outputs is not None and expand_size > 1 and not IS_V5:
            # the images of a sample stay together: [A1 A2, B] becomes [A1 A2, A1 A2, B, B]
            lengths = self.image_token_mask(input_ids, model_kwargs.get("inputs_embeds")).sum(-1).tolist()
            samples = torch.cat(list(outputs.pooler_output)).split(lengths)
            outputs.pooler_output = [sample for sample in samples for _ in range(expand_size)]
        return super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )


def cached_length(kwargs: dict[str, Any], input_ids: torch.Tensor | None) -> int:
    """Returns how many of the given tokens the cache of a call already holds.

    `input_ids` (B, L) are those of the whole conversation; with a longer `attention_mask`, only those of its new part.
    """
    cache = kwargs.get(CACHE_NAME)
    length = cache.get_seq_length() if cache is not None else 0
    mask = kwargs.get("attention_mask")
    only_new = input_ids is not None and mask is not None and mask.shape[-1] > input_ids.shape[-1]
    return 0 if only_new else int(length)


def drop_cached_images(
    config: XGenMMConfig, images: dict[str, Any], mask: torch.Tensor, start: int
) -> dict[str, torch.Tensor | None]:
    """Drops the images whose tokens are all in the cached part of the prompts, their first `start` tokens.

    `images` has `pixel_values`, `image_sizes` and `image_num_tiles` of all images of the prompts in order, or only of
    those in the new part; `mask` is True at image tokens, (B, L).
    """
    pixel_values, sizes = images["pixel_values"], images["image_sizes"]
    image_num_tiles = resolve_num_tiles(
        config, pixel_values.shape[0], sizes, images["image_num_tiles"], pixel_values.device
    )
    tiles = image_num_tiles.tolist()
    lengths = image_lengths(config, tiles)
    is_new = torch.zeros_like(mask)
    is_new[:, start:] = mask[:, start:]
    if sum(lengths) == int(is_new.sum()):
        return images
    check(fits_prompt(sum(lengths), mask))
    counts = [int(part.sum()) for part in is_new[mask].split(lengths)]
    kept = [index for index, count in enumerate(counts) if count]
    if any(counts[index] != lengths[index] for index in kept):
        raise ValueError("The cache ends inside an image's tokens; crop it to where that image starts.")
    chosen = torch.tensor([bool(counts[index]) for index, number in enumerate(tiles) for _ in range(number)])
    rows = torch.tensor(kept, dtype=torch.long)
    return {
        "pixel_values": pixel_values[chosen.to(pixel_values.device)],
        "image_sizes": None if sizes is None else sizes[rows.to(sizes.device)],
        "image_num_tiles": image_num_tiles[rows.to(image_num_tiles.device)],
    }
