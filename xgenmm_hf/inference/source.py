"""Deciding what a model name means before anything heavy is imported or any address is contacted."""

import json
import os
import re
from pathlib import Path
from typing import Any


REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")


def resolve_model(model: str | os.PathLike[str], *, weights: bool = True) -> str:
    """Returns the local folder or the Hub repository that a model name stands for.

    Args:
        model: Path of a checkpoint folder, or a repository of the form ``organisation/name``.
        weights: Whether the folder must hold weights in our layout; off, a ``config.json`` is enough.

    Returns:
        The folder as it was given, or the repository's name. Nothing is downloaded here.

    Raises:
        ValueError: If it is neither, or the folder is no checkpoint in our layout.
    """
    name = os.fspath(model)
    folder = Path(name).expanduser()
    if folder.is_dir():
        fields = read_config(folder)
        if weights:
            _check_layout(folder, fields)
        return str(folder)
    if folder.exists():
        raise ValueError(f"{name} is a file: give the folder that holds config.json and the weights.")
    if not REPO_ID.fullmatch(name):
        raise ValueError(
            f"There is no model at {name}: give a checkpoint folder, or a Hub repository as organisation/name."
        )
    return name


def is_local(resolved: str) -> bool:
    """Returns whether a resolved model is a folder on this machine rather than a Hub repository."""
    return Path(resolved).is_dir()


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a folder's ``config.json``.

    Args:
        folder: An existing folder.

    Returns:
        Its fields.

    Raises:
        ValueError: If the file is missing, is not JSON, or belongs to another model type.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} holds no config.json: it is not a checkpoint folder.")
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}): restore it from where the checkpoint came.") from None
    if not isinstance(fields, dict) or fields.get("model_type") != "xgenmm":
        found = fields.get("model_type") if isinstance(fields, dict) else None
        raise ValueError(f"{file} says model_type {found!r}; an xGen-MM checkpoint says 'xgenmm'.")
    return fields


def is_original_layout(fields: dict[str, Any]) -> bool:
    """Returns whether a config follows the original's schema instead of ours."""
    return "vision_encoder_config" in fields or "vision_tokenizer_config" in fields


def _check_layout(folder: Path, fields: dict[str, Any]) -> None:
    """Raises a ValueError where a folder's weights are missing or in the original's layout."""
    if is_original_layout(fields):
        raise ValueError(f"{folder} is in the original layout: convert it first with `xgenmm convert {folder} OUT`.")
    if not any(path.is_file() for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)):
        raise ValueError(f"{folder} holds a config.json but no weights (*.safetensors): copy them there.")
