"""Which weights and which libraries gave an answer."""

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xgenmm_hf import __version__
from xgenmm_hf.inference.adapters import adapter_base


LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "pillow")


def describe_checkpoint(source: str, commit: str | None = None) -> dict[str, str]:
    """Says which checkpoint answered."""
    folder = Path(source)
    if not folder.is_dir():
        return {"model": source, **({"commit": commit} if commit else {})}
    digest = hashlib.sha256()
    base = adapter_base(folder)
    if base is not None:
        digest.update(json.dumps(describe_checkpoint(base), sort_keys=True).encode())
    configs = [folder / "config.json"] if base is None else [folder / "adapter_config.json"]
    for file in [*configs, *sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])]:
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 22):
                digest.update(block)
    return {"model": source, "sha256": digest.hexdigest()}


def library_versions() -> dict[str, str]:
    """Returns the versions of everything that may change an answer."""
    found = {"python": platform.python_version(), "xgenmm-hf": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
