"""Adapter folders: the base model that an adapter belongs to, and both merged into one model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.conversion.files import read_json


if TYPE_CHECKING:
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


CONFIG = "adapter_config.json"


def adapter_base(folder: str | os.PathLike[str]) -> str | None:
    """Returns the base model that an adapter folder names, or None where the folder holds no adapter."""
    path = Path(folder).expanduser()
    if not (path / CONFIG).is_file() or (path / "config.json").is_file():
        return None
    base = read_json(path / CONFIG).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{path / CONFIG} names no base_model_name_or_path: add the model that it was trained from.")
    relative = path / str(base)  # the base may be given relative to the folder
    return str(relative) if relative.is_dir() else str(base)


def merge_adapter(model: "XGenMMForConditionalGeneration", folder: str | os.PathLike[str]) -> Any:
    """Adds an adapter to its base model."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ValueError(f"{folder} is an adapter, which needs PEFT: pip install peft.") from error
    try:
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, KeyError, OSError) as error:
        raise ValueError(f"The adapter in {folder} does not fit its base model: {error}") from error
