"""Loading a model and its processor, ready to answer."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.conversion.sources import weight_files
from xgenmm_hf.conversion.tensors import listed
from xgenmm_hf.inference.adapters import adapter_base, merge_adapter
from xgenmm_hf.inference.precision import choose_dtype
from xgenmm_hf.inference.quantisation import check_installed, check_quantised, keep_whole
from xgenmm_hf.inference.source import is_local, resolve_model
from xgenmm_hf.modeling.compat_xgenmm import names_of_mismatched


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, and the processor that prepares its inputs.

    Attributes:
        model: The model.
        processor: The processor.
        dtype: The dtype it computes in and why, as part of a sentence.
    """

    model: XGenMMForConditionalGeneration
    processor: XGenMMProcessor
    dtype: str = ""


def load(
    model: str | os.PathLike[str], *, dtype: str = "auto", device: str = "auto", load_in: str | None = None
) -> Loaded:
    """Loads a checkpoint for inference.

    Args:
        model: Path of a checkpoint folder or of an adapter's, or a Hub repository of the form ``organisation/name``.
            An adapter is merged into the base model that it names.
        dtype: ``float32``, ``float16``, ``bfloat16``, or ``auto``: on a GPU the checkpoint's own, on a CPU bfloat16
            where that is native and faster, else float32 (see `choose_dtype`).
        device: A torch device such as ``cpu`` or ``cuda:0``, or ``auto``: a GPU where there is one.
        load_in: ``4bit`` or ``8bit``: the decoder's layers in so many bits, by bitsandbytes.

    Returns:
        The model and its processor.

    Raises:
        ValueError: If the model, the dtype or the device is not usable.
        FileNotFoundError: If weights are missing.
    """
    base = adapter_base(model)
    if load_in is not None:
        check_quantisation(load_in, base is not None)
    place = pick_device(device)
    source, chosen, reason = check_source(base or model, dtype, place)
    options = {} if load_in is None else quantised(load_in, chosen, place)
    loaded, processor = load_parts(source, dtype=chosen, **options)
    if base is not None:
        loaded = merge_adapter(loaded, model)
        processor = XGenMMProcessor.from_pretrained(model)
        # a training stage may cut images differently from its base model; the adapter's processor states how
        loaded.config.image_aspect_ratio = processor.image_processor.image_aspect_ratio
        loaded.config.anyres_grids = [list(grid) for grid in processor.image_processor.anyres_grids]
    if load_in is not None:
        check_quantised(loaded)
        return Loaded(loaded.eval(), processor, f"{reason}, the decoder's weights in {load_in}")
    return Loaded(loaded.to(place).eval(), processor, reason)


def check_source(model: str | os.PathLike[str], dtype: str, place: torch.device) -> tuple[str, torch.dtype, str]:
    """Checks a checkpoint before it is loaded; returns its folder or repository, the dtype to compute in, and why."""
    source = resolve_model(model)
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {dtype!r}; it must be auto, {', '.join(DTYPES)}.")
    if is_local(source):
        check_files(Path(source))
    if dtype != "auto":
        return source, DTYPES[dtype], f"{dtype} (as asked)"
    try:
        config = XGenMMConfig.from_pretrained(source)
    except Exception as error:
        raise ValueError(f"{source} could not be loaded: {error}") from error
    return source, *choose_dtype(config.dtype or torch.float32, config.text_config, place)


def check_quantisation(load_in: str, adapter: bool) -> None:
    """Refuses what cannot be loaded in fewer bits, before anything is read."""
    if load_in not in ("4bit", "8bit"):
        raise ValueError(f"load_in is {load_in!r}; it must be 4bit or 8bit.")
    if adapter:
        raise ValueError(f"An adapter cannot be merged into weights in {load_in}: merge it first, or load it whole.")
    check_installed(f"Loading in {load_in}")


def quantised(load_in: str, dtype: torch.dtype, place: torch.device) -> dict[str, Any]:
    """Returns the options of `from_pretrained` for a decoder in fewer bits."""
    config = BitsAndBytesConfig(
        **{f"load_in_{load_in}": True}, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": keep_whole(config), "device_map": {"": place}}


def load_parts(source: str, revision: str = "main", **options: Any) -> tuple[Any, Any]:
    """Loads model and processor; a model whose weights and config do not fit is refused."""
    try:
        model, report = XGenMMForConditionalGeneration.from_pretrained(
            source, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        processor = XGenMMProcessor.from_pretrained(source, revision=revision)
    except Exception as error:  # config, weights, tokenizer and download fail with errors of five libraries
        raise ValueError(f"{source} could not be loaded: {error}") from error
    odd = names_of_mismatched(report)
    missing = report["missing_keys"]
    if missing or odd:
        raise ValueError(
            f"The weights in {source} do not fit its config.json: {len(missing)} tensors are missing and {len(odd)} "
            f"have another shape ({listed([*missing, *odd])}); use the files of one model."
        )
    return model, processor


def check_files(folder: Path) -> None:
    """Checks a checkpoint folder's files before anything is loaded, so that an error names the file."""
    for file in weight_files(folder):
        file.entries()
    for name in ("tokenizer.json", "processor_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}: copy it from where the checkpoint came.")


def pick_device(device: str = "auto") -> torch.device:
    """Turns a device's name into an available device, or raises a ValueError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"Device {device!r} cannot be used here ({reason}): try --device cpu.") from None
    if place.type == "meta":
        raise ValueError("Device 'meta' holds no values: try --device cpu.")
    return place
