"""Deciding what a model name means before anything heavy is imported or any address is contacted."""

import os
import re
from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.conversion.sources import check_is_checkpoint
from xgenmm_hf.inference.adapters import adapter_base


REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")


def resolve_model(model: str | os.PathLike[str], *, ours: bool = True) -> str:
    """Returns the local folder or the Hub repository that a model name stands for."""
    name = os.fspath(model)
    folder = Path(name).expanduser()
    if folder.is_dir():
        fields = read_config(folder)
        if ours and ("vision_encoder_config" in fields or "vision_tokenizer_config" in fields):
            raise ValueError(f"{name} is in the original layout: convert it first with `xgenmm convert {name} OUT`.")
        return str(folder)
    if folder.exists():
        raise ValueError(f"{name} is a file: give the folder that holds config.json and the weights.")
    if not REPO_ID.fullmatch(name):
        raise ValueError(
            f"There is no model at {name}: give a checkpoint folder, or a Hub repository as organisation/name."
        )
    return name


def resolve_checkpoint(model: str | os.PathLike[str]) -> str:
    """Returns what `load` takes: an adapter's folder as it is, once its base is there, or else a resolved model."""
    base = adapter_base(model)
    source = resolve_model(model if base is None else base)
    return source if base is None else os.fspath(model)


def is_local(resolved: str) -> bool:
    """Returns whether a resolved model is a folder on this machine rather than a Hub repository."""
    return Path(resolved).is_dir()


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a folder's ``config.json``."""
    file = folder / "config.json"
    if not file.is_file():
        check_is_checkpoint(folder)
        raise ValueError(f"{folder} holds no config.json: it is not a checkpoint folder.")
    fields = read_json(file)
    if fields.get("model_type") != "xgenmm":
        raise ValueError(f"{file} says model_type {fields.get('model_type')!r}; an xGen-MM checkpoint says 'xgenmm'.")
    return fields
