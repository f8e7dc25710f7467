"""Keeps the tokens of images that are asked about again, so that neither tiles nor tower are computed twice.

An image is identified by its content, the way it is cut into tiles and the weights that read it. The language model
still reads every prompt as a whole.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xgenmm_hf.data.image_refs import image_key
from xgenmm_hf.modeling.images_xgenmm import flatten, read_image
from xgenmm_hf.modeling.legacy_api_xgenmm import expand_rows, pad_left
from xgenmm_hf.modeling.processing_xgenmm import checked_prompts


if TYPE_CHECKING:
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


DEFAULT_BYTES = 2**30


class FeatureCache:
    """Keeps the tokens of images, the ones used last, up to a number of bytes on the model's device.

    It is for inference, without gradients. A change of the weights that read images, in place or by a move to another
    device or dtype, invalidates the kept tokens. `hits` and `misses` count images. The model may be a `PeftModel`; a
    five-tile image of the 4B model takes 3.9 MB in bfloat16.

    Example:
        >>> from xgenmm_hf import TINY_MODEL, FeatureCache, load
        >>> loaded = load(TINY_MODEL)
        >>> cache = FeatureCache(loaded.model, loaded.processor)
        >>> for question in ("What color is it?", "What shape is it?"):
        ...     inputs = cache.prepare(f"<image>{question}", ["examples/data/images/000000.png"])
        >>> (cache.misses, cache.hits)
        (1, 1)
    """

    def __init__(
        self, model: "XGenMMForConditionalGeneration", processor: "XGenMMProcessor", max_bytes: int = DEFAULT_BYTES
    ):
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; give the number of bytes to keep, or 0 to keep nothing.")
        self.model, self.processor, self.max_bytes = model, processor, max_bytes
        self.hits = self.misses = 0
        self._tokens: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._tokens)

    def prepare(self, text: Any, images: Any = None, image_aspect_ratio: str | None = None) -> BatchFeature:
        """Prepares model inputs, as the processor does with `padding=True, padding_side="left"`."""
        images = [read_image(image, f"images[{index}]") for index, image in enumerate(flatten(images))]
        tokenizer, config = self.processor.tokenizer, self.model.config
        rows = [torch.tensor(ids) for ids in tokenizer(checked_prompts(text))["input_ids"]]
        tokens = self.encode(images, image_aspect_ratio, [row for row in rows if config.image_token_id in row])
        lengths = [len(image) for image in tokens]
        rows = expand_rows(rows, lengths, config.image_token_id, config.image_placeholder_token_id)
        data: dict[str, Any] = pad_left(rows, self._pad_token_id())
        data = {name: value.to(self.model.device) for name, value in data.items()}
        if images:
            data["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=tokens)}
        return BatchFeature(data)

    def encode(
        self,
        images: Sequence[Image.Image],
        image_aspect_ratio: str | None = None,
        prompts: Sequence[torch.Tensor | None] | None = None,
    ) -> list[torch.Tensor]:
        """Returns the tokens of images; those not known are cut and encoded together, each once."""
        if not self.model.config.resampler_config.text_conditioned:
            prompts = None
        elif prompts is None or len(prompts) != len(images):
            raise ValueError(
                f"There are {len(images)} images for {len(prompts or ())} prompts with one; this checkpoint reads one "
                "image per prompt, together with the prompt's text."
            )
        state = self._state(image_aspect_ratio)
        texts: Sequence[Any] = [None] * len(images) if prompts is None else prompts
        read_with = [state if ids is None else f"{state} {ids.tolist()}" for ids in texts]
        keys = [f"{image_key(image)} {known}" for image, known in zip(images, read_with, strict=True)]
        found = {key: self._tokens[key] for key in keys if key in self._tokens}
        places = {key: place for place, key in enumerate(keys) if key not in found}
        if places:
            missing = [images[place] for place in places.values()]
            asked = None if prompts is None else [prompts[place] for place in places.values()]
            found.update(zip(places, self._compute(missing, image_aspect_ratio, asked), strict=True))
        self.hits += len(keys) - len(places)
        self.misses += len(places)
        for key in keys:
            self._keep(key, found[key])
        return [found[key] for key in keys]

    def _compute(
        self, images: list[Image.Image], image_aspect_ratio: str | None, prompts: list[torch.Tensor | None] | None
    ) -> list[torch.Tensor]:
        inputs = self.processor.image_processor(images, image_aspect_ratio=image_aspect_ratio, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        if prompts is not None:
            placeholder = self.model.config.image_placeholder_token_id
            given = [ids[ids != placeholder] for ids in prompts if ids is not None]
            padded = pad_left(given, self._pad_token_id())
            inputs["prompt_ids"] = padded["input_ids"].to(self.model.device)
            inputs["prompt_mask"] = padded["attention_mask"].to(self.model.device)
        with torch.no_grad():
            encoded = self.model.get_image_features(**inputs)
        # a copy each: a view would keep the tokens of all images of the call
        return [tokens.clone() for tokens in encoded.pooler_output]

    def _keep(self, key: str, tokens: torch.Tensor) -> None:
        """Stores an image's tokens as the most recent, and drops the least recently used ones over the limit."""
        known = self._tokens.pop(key, None)
        self._bytes -= 0 if known is None else known.nbytes
        if tokens.nbytes > self.max_bytes:
            return
        self._tokens[key] = tokens
        self._bytes += tokens.nbytes
        while self._bytes > self.max_bytes:
            _, oldest = self._tokens.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _state(self, image_aspect_ratio: str | None) -> str:
        """Describes how images are cut and which weights read them."""
        root = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        parts = (root.model.vision_tower, root.model.resampler)
        weights = [weight for part in parts for weight in part.parameters()]
        versions = [0 if weight.is_inference() else weight._version for weight in weights]
        places = sorted({f"{weight.dtype} {weight.device}" for weight in weights})
        storages = [weight.data_ptr() for weight in weights]
        settings = self.processor.image_processor.to_dict()
        description = [image_aspect_ratio, settings, versions, storages, places]
        return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()

    def _pad_token_id(self) -> int:
        padding = self.processor.tokenizer.pad_token_id
        return 0 if padding is None else int(padding)
