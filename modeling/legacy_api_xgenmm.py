"""The calls of the original Hub code, translated to ours.

The released notebooks and VLMEvalKit's wrapper call `update_special_tokens` and `generate` with nested
`pixel_values`, `image_size` as (width, height), and prompts with one `<image>` id per image (or `<image>` and
placeholders). They expect only the new tokens back. The model itself does not know these calls.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import (
    BatchFeature,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from transformers.utils import ModelOutput

from .tiling_xgenmm import count_image_tokens


class LegacyImageMixin:
    """Adds the original's `preprocess` to an image processor, whose own call has one form only."""

    def preprocess(
        self, images: Any, image_aspect_ratio: str | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """The original's call; `return_tensors` and further options are ignored, as in the original.

        With `"anyres"` it returns `pixel_values` (images, tiles, 3, S, S), or a list of (tiles, 3, S, S) where the
        images have different numbers of tiles. Other modes return (1, images, 1, 3, S, S).
        """
        one_tile = "none" if self.image_aspect_ratio == "anyres" else self.image_aspect_ratio
        batch = self(images, image_aspect_ratio=image_aspect_ratio or one_tile, return_tensors="pt")
        if image_aspect_ratio != "anyres":
            return BatchFeature({"pixel_values": batch["pixel_values"][None, :, None]})
        tiles = list(batch["pixel_values"].split(batch["image_num_tiles"].tolist()))
        same = len({image.shape[0] for image in tiles}) == 1
        return BatchFeature({"pixel_values": torch.stack(tiles) if same else tiles})


class LegacyLanguageModel:
    """The language model and its head as the original's `lang_model`; other attributes are the language model's."""

    def __init__(self, model: nn.Module, lm_head: nn.Module):
        self.model, self.lm_head = model, lm_head

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class HubEraMixin:
    """Adds the Hub-era calls to a model."""

    @property
    def vlm(self) -> SimpleNamespace:
        """The parts under the original's names: `vision_encoder`, `vision_tokenizer` and `lang_model`."""
        return SimpleNamespace(
            vision_encoder=self.model.vision_tower.vision_model,
            vision_tokenizer=self.model.resampler,
            lang_model=LegacyLanguageModel(self.model.language_model, self.lm_head),
        )

    def update_special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """Makes sure that a tokenizer has the three added tokens under the ids that the model knows."""
        expected = self.config.added_tokens
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in expected if token not in vocabulary]
        if missing:
            tokenizer.add_tokens(missing, special_tokens=True)
        found = {token: tokenizer.convert_tokens_to_ids(token) for token in expected}
        if found != expected:
            raise ValueError(
                f"The tokenizer's ids are {found}, the model's are {expected}; "
                "load the tokenizer from the model's own folder."
            )
        return tokenizer

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Generates tokens; see `GenerationMixin.generate`.

        With a cache (`past_key_values`), only images after the cached part are read. A call in the Hub-era form
        (`image_size`, or `pixel_values` nested or of six dimensions) is translated. As in the original it returns the
        new tokens only, and options such as `repetition_penalty` and `no_repeat_ngram_size` see the new tokens only;
        in every other call they have the library's meaning.

        Args:
            inputs: Token ids, (B, L), in place of `input_ids`.
            **kwargs: Model inputs and generation options.

        Returns:
            Prompt and new tokens, (B, L + new); in the Hub-era form the new tokens, (B, new).

        Raises:
            ValueError: If images and prompt do not fit each other.
        """
        looks_up = self._never_propose_images(kwargs)
        if not is_legacy_api_call(kwargs):
            return super().generate(inputs, **kwargs)
        prompt = self._translate_prompt(kwargs.pop("input_ids", inputs), kwargs)
        if looks_up:  # an option that the original did not have; it needs the prompt's ids
            outputs = super().generate(**prompt, **kwargs)
            new = getattr(outputs, "sequences", outputs)[:, prompt["input_ids"].shape[1] :]
            if not isinstance(outputs, ModelOutput):
                return new
            outputs.sequences = new
            return outputs
        # As in the original: penalties see only the new tokens, and only these are returned.
        prompt["inputs_embeds"] = self.get_input_embeddings()(prompt.pop("input_ids"))
        self._penalise_new_tokens(kwargs)
        return super().generate(**prompt, **kwargs)

    def _penalise_new_tokens(self, kwargs: dict[str, Any]) -> None:
        """Makes a repetition penalty count from the first new token: 5.24 skips as many as its row has padding."""
        penalty = self._option("repetition_penalty", kwargs)
        if penalty not in (None, 1.0):
            processors = [RepetitionPenaltyLogitsProcessor(penalty), *(kwargs.get("logits_processor") or [])]
            kwargs.update(repetition_penalty=1.0, logits_processor=LogitsProcessorList(processors))

    def _never_propose_images(self, kwargs: dict[str, Any]) -> bool:
        """Keeps prompt lookup from copying image tokens out of the prompt; returns whether prompt lookup is on."""
        if not self._option("prompt_lookup_num_tokens", kwargs):
            return False
        ids = [self.config.image_token_id, self.config.image_placeholder_token_id]
        suppress = SuppressTokensLogitsProcessor(ids, device=self.device)
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), suppress])
        return True

    def _option(self, name: str, kwargs: dict[str, Any]) -> Any:
        """Returns a generation option of the call, else of the model; None if neither sets it."""
        configs = (kwargs.get("generation_config"), self.generation_config)
        stated = (kwargs.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in stated if value is not None), None)

    def _translate_prompt(self, input_ids: torch.Tensor | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Takes the Hub-era inputs out of `kwargs` and returns ours."""
        if input_ids is None:
            raise ValueError("input_ids is missing; pass the tokenizer's output, **tokenizer([prompt], ...).")
        pixel_values = kwargs.pop("pixel_values", None)
        check_counts(input_ids, pixel_values, self.config.image_token_id)
        images = self._split_images(pixel_values, kwargs.pop("image_num_tiles", None))
        kwargs.pop("image_sizes", None)  # same as image_size; passed with the image processor's whole output
        sizes = flatten_sizes(kwargs.pop("image_size", None))
        attention_mask = kwargs.pop("attention_mask", None)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        sampling = (self.config.resampler_config.num_latents, self.config.anyres_patch_sampling)
        lengths = [count_image_tokens(image.shape[0], *sampling) for image in images]
        rows = [row[mask.bool()] for row, mask in zip(input_ids, attention_mask, strict=True)]
        rows = expand_rows(rows, lengths, self.config.image_token_id, self.config.image_placeholder_token_id)
        pad_token_ids = (self._option("pad_token_id", kwargs), self.config.text_config.pad_token_id)
        prompt = pad_left(rows, next((token for token in pad_token_ids if token is not None), 0))
        if not images:
            return prompt
        if len(sizes) != len(images):
            if sizes or any(image.shape[0] > 1 for image in images):
                raise ValueError(
                    f"image_size holds {len(sizes)} sizes for {len(images)} images; give a (width, height) per image."
                )
            sizes = [(image.shape[-1], image.shape[-2]) for image in images]  # one tile needs no size
        device = input_ids.device
        prompt["pixel_values"] = torch.cat(images).to(device)
        prompt["image_sizes"] = torch.tensor([(height, width) for width, height in sizes], device=device)
        prompt["image_num_tiles"] = torch.tensor([image.shape[0] for image in images], device=device)
        return prompt

    def _split_images(self, pixel_values: Any, image_num_tiles: torch.Tensor | None) -> list[torch.Tensor]:
        """Returns one (tiles, channels, S, S) tensor per image."""
        if image_num_tiles is not None:
            return list(pixel_values.split(image_num_tiles.tolist()))
        images = flatten_images(pixel_values)
        if self.config.image_aspect_ratio == "anyres":
            return images
        return [tile for image in images for tile in image.split(1)]


def is_legacy_api_call(kwargs: dict[str, Any]) -> bool:
    """Tells whether a `generate` call has the Hub-era form."""
    pixel_values = kwargs.get("pixel_values")
    nested = isinstance(pixel_values, (list, tuple)) or (torch.is_tensor(pixel_values) and pixel_values.dim() > 4)
    return nested or "image_size" in kwargs


def flatten_images(pixel_values: Any) -> list[torch.Tensor]:
    """Flattens Hub-era `pixel_values` into one (tiles, channels, S, S) tensor per image.

    `pixel_values` is None; nested lists of images; a tensor (B, images, frames, channels, S, S) or (images, tiles,
    channels, S, S); or one image.
    """
    if pixel_values is None:
        return []
    if isinstance(pixel_values, (list, tuple)) or pixel_values.dim() in (5, 6):
        return [image for item in pixel_values for image in flatten_images(item)]
    if pixel_values.dim() == 4:
        return [pixel_values]
    raise ValueError(
        f"pixel_values holds a tensor of shape {tuple(pixel_values.shape)}; an image is (tiles, channels, S, S), as "
        'image_processor.preprocess([img], image_aspect_ratio="anyres", return_tensors="pt")["pixel_values"] gives it.'
    )


def check_counts(input_ids: torch.Tensor, pixel_values: Any, image_token_id: int) -> None:
    """Checks the number of images of each prompt of (B, L) ids, if `pixel_values` has B lists of images."""
    if not isinstance(pixel_values, (list, tuple)) or len(pixel_values) != len(input_ids):
        return
    for index, (row, group) in enumerate(zip(input_ids, pixel_values, strict=True)):
        found = int((row == image_token_id).sum())
        if isinstance(group, (list, tuple)) and found != len(flatten_images(group)):
            raise ValueError(
                f"Prompt {index} holds {found} <image> tokens for {len(flatten_images(group))} images; "
                "write one <image> for each image."
            )


def flatten_sizes(image_size: Any) -> list[tuple[int, int]]:
    """Flattens Hub-era `image_size` into one (width, height) per image."""
    if image_size is None:
        return []
    if torch.is_tensor(image_size):
        image_size = image_size.tolist()
    if len(image_size) == 2 and all(isinstance(value, int) for value in image_size):
        return [tuple(image_size)]
    return [size for item in image_size for size in flatten_sizes(item)]


def expand_rows(
    rows: list[torch.Tensor], lengths: list[int], image_token_id: int, placeholder_token_id: int
) -> list[torch.Tensor]:
    """Expands every `<image>` id to as many ids as its image has tokens; placeholders are dropped."""
    rows = [row[row != placeholder_token_id] for row in rows]
    found = sum(int((row == image_token_id).sum()) for row in rows)
    if found != len(lengths):
        raise ValueError(
            f"The prompts hold {found} <image> tokens for {len(lengths)} images; write one <image> for each image."
        )
    remaining = iter(lengths)
    expanded = []
    for row in rows:
        repeats = torch.ones_like(row)
        places = (row == image_token_id).nonzero().flatten()
        repeats[places] = torch.tensor([next(remaining) for _ in places], dtype=row.dtype, device=row.device)
        expanded.append(row.repeat_interleave(repeats))
    return expanded


def pad_left(rows: list[torch.Tensor], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pads prompts of (length,) on the left: `input_ids` and `attention_mask`, (B, longest length) each."""
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    mask = pad([torch.ones_like(row) for row in rows])
    return {"input_ids": pad(rows, padding_value=pad_token_id), "attention_mask": mask}
