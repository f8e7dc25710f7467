"""Weight-only quantisation of the language model: memory saved, answers lost, on the embedded model's questions.

The layers of the language model are quantised; tower, resampler, embeddings and head stay as they are, as with QLoRA.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from embedded_model.measure.held_out import answer_questions, held_out_questions, measure

from bench.rows import Row
from bench.session import Session
from bench.timing import Timing, run_timed
from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.inference.loading import Loaded


KEPT = ("model.vision_tower", "model.resampler", "lm_head")
PLAIN = "not quantised"
# Kinds by name, with the library that each needs.
KINDS = {
    "int8 (torchao)": "torchao",
    "int8 (bitsandbytes)": "bitsandbytes",
    "4-bit nf4 (bitsandbytes)": "bitsandbytes",
}
QUESTIONS = 300


def measure_quantisation(session: Session) -> list[Row]:
    """Asks the embedded model held-out questions, as it is and quantised; in questions a second.

    Args:
        session: The run; its preset does not matter here, because random weights answer nothing.

    Returns:
        A row a kind whose library is installed.
    """
    setting = session.setting
    questions = held_out_questions(QUESTIONS)
    processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
    rows: list[Row] = []
    plain_bytes = 0
    for kind in (PLAIN, *available_kinds()):
        model = load_quantised(TINY_MODEL, kind, setting.device, setting.dtype)
        found: list[Any] = []

        def ask(model: Any = model, found: list[Any] = found) -> None:
            found.extend(answer_questions(Loaded(model, processor), questions))

        seconds = run_timed(ask, setting.device)
        held = decoder_bytes(model)
        plain_bytes = plain_bytes or held
        right = measure(found)["overall"]["accuracy"]
        note = f"{right:.1%} of {QUESTIONS} questions right; decoder layers {held / plain_bytes:.2f} x the bytes"
        ratio = None if kind == PLAIN else rows[0].timing.seconds / seconds
        baseline = None if kind == PLAIN else PLAIN
        timing = Timing(seconds, seconds, seconds, 1)
        rows.append(Row("quantisation", kind, timing, "questions", QUESTIONS, None, held, baseline, ratio, note))
    return rows


def available_kinds() -> Iterator[str]:
    """Yields the kinds whose library is installed."""
    for kind, library in KINDS.items():
        if find_spec(library) is not None:
            yield kind


def quantization_config(kind: str, dtype: torch.dtype) -> Any:
    """Returns what `from_pretrained(quantization_config=...)` takes.

    Args:
        kind: One of `KINDS`, or `not quantised`.
        dtype: Dtype to compute in.

    Returns:
        A config of Transformers, or None.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind == PLAIN:
        return None
    if kind == "int8 (torchao)":
        from transformers import TorchAoConfig

        weight_only = import_module("torchao.quantization").Int8WeightOnlyConfig()
        return TorchAoConfig(weight_only, modules_to_not_convert=list(KEPT))
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; there are {', '.join(KINDS)}.")
    from transformers import BitsAndBytesConfig

    if kind.startswith("int8"):
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(KEPT))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(KEPT),
    )


def load_quantised(folder: str, kind: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads a checkpoint with its language model quantised.

    Args:
        folder: The checkpoint.
        kind: One of `KINDS`, or `not quantised`.
        device: Where to.
        dtype: Dtype of what is not quantised.

    Returns:
        The model in evaluation mode.
    """
    options = {"quantization_config": quantization_config(kind, dtype), "device_map": str(device), "dtype": dtype}
    given = {name: value for name, value in options.items() if value is not None}
    return XGenMMForConditionalGeneration.from_pretrained(folder, **given).eval()


def decoder_bytes(model: Any) -> int:
    """Counts the bytes of the decoder's layers, scales of quantised weights included."""
    return sum(tensor_bytes(weight) for weight in model.model.language_model.layers.parameters())


def tensor_bytes(tensor: Any) -> int:
    """Counts the bytes of a tensor and of what a quantised one is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(tensor_bytes(getattr(tensor, name)) for name in names)
    state = getattr(tensor, "quant_state", None)
    scales = getattr(tensor, "SCB", None) if state is None else state.absmax
    return int(tensor.nbytes + (0 if scales is None else scales.nbytes))
