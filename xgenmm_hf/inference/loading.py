"""Loading a model and its processor, ready to answer."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from xgenmm_hf import XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.inference.source import resolve_model


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, and the processor that prepares its inputs."""

    model: Any
    processor: Any


def load(model: str | os.PathLike[str], *, dtype: str = "auto", device: str = "auto") -> Loaded:
    """Loads a checkpoint for inference.

    Args:
        model: Path of a checkpoint folder, or a Hub repository of the form ``organisation/name``.
        dtype: ``float32``, ``float16``, ``bfloat16``, or ``auto``: the checkpoint's own, except that float16 becomes
            float32 on the CPU, where half-precision arithmetic is emulated.
        device: A torch device such as ``cpu`` or ``cuda:0``, or ``auto``: a GPU where there is one.

    Returns:
        The model and its processor.

    Raises:
        ValueError: If the model, the dtype or the device is not usable.
        OSError: If a file of the checkpoint is missing or cannot be downloaded.
    """
    source = resolve_model(model)
    place = pick_device(device)
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {dtype!r}; it must be auto, {', '.join(DTYPES)}.")
    loaded = XGenMMForConditionalGeneration.from_pretrained(source, dtype=DTYPES.get(dtype, "auto"))
    if dtype == "auto" and place.type == "cpu" and loaded.dtype == torch.float16:
        loaded = loaded.float()
    return Loaded(loaded.to(place).eval(), XGenMMProcessor.from_pretrained(source))


def pick_device(device: str = "auto") -> torch.device:
    """Turns a device's name into a device that is there.

    Args:
        device: A torch device's name, or ``auto``.

    Returns:
        The device.

    Raises:
        ValueError: If the name is unknown or this machine has no such device.
    """
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
