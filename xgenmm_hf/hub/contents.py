"""What of a checkpoint folder belongs in a repository, checked before anything is sent."""

import json
import tempfile
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.conversion.sources import Weights, open_weight_file, weight_files
from xgenmm_hf.conversion.tensors import listed
from xgenmm_hf.inference.source import is_original_layout, read_config
from xgenmm_hf.modeling.remote_code_xgenmm import AUTO_MAP, copy_remote_code


INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NEEDED = ("tokenizer.json", "tokenizer_config.json", "processor_config.json")
SETTINGS = (
    *NEEDED,
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "preprocessor_config.json",
    "original/*.json",
    "original/*.safetensors",
)
CARD = "README.md"
_TOKENIZER = "tokenization_xgenmm.XGenMMTokenizer"
# What `save_pretrained` writes into each file of a processor that was loaded with the code.
_IMAGE_PROCESSOR_MAP = {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}
_PROCESSOR_MAPS = {
    "processor_config.json": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
    "preprocessor_config.json": _IMAGE_PROCESSOR_MAP,
    "tokenizer_config.json": {"AutoProcessor": AUTO_MAP["AutoProcessor"], "AutoTokenizer": [_TOKENIZER, _TOKENIZER]},
}


@dataclass(frozen=True)
class File:
    """A file of the repository: its name there, and its content: a path on this machine, or bytes made here."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


@dataclass(frozen=True)
class Contents:
    """What a folder gives to a repository; the folder's own card is neither among the files nor left out."""

    folder: Path
    is_adapter: bool  # an adapter (PEFT) instead of a whole model
    files: tuple[File, ...]  # without the card, sorted by name
    left_out: tuple[str, ...]  # names of what stays here, sorted


def collect(folder: Path) -> Contents:
    """Chooses what goes along: weights, settings, tokenizer, processor and the code, never a training run's state."""
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {listed(missing)}: save the processor there too.")
    wanted = (*(_check_adapter(folder) if is_adapter else _check_model(folder)), *SETTINGS)
    files = {file.name: file for file in _code_files()}
    left_out = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in wanted):
            files[name] = File(name, path)
        elif name not in (CARD, "config.json", *files):
            left_out.append(name)
    for name in _PROCESSOR_MAPS:
        if name in files:
            files[name] = _with_fields(folder / name, auto_map=_PROCESSOR_MAPS[name])
    if not is_adapter:
        files["config.json"] = _with_fields(folder / "config.json", auto_map=AUTO_MAP)
    return Contents(folder, is_adapter, tuple(files[name] for name in sorted(files)), tuple(left_out))


def _check_model(folder: Path) -> tuple[str, ...]:
    """Checks that weights are safetensors of the model that the config describes; returns the names of their files."""
    if is_original_layout(read_config(folder)):
        raise ValueError(f"{folder} is in the original layout: convert it first with `xgenmm convert {folder} OUT`.")
    from xgenmm_hf.conversion.verify import compare, expected_tensors
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig

    weights, names = Weights(), []
    for file in weight_files(folder):
        if file.path.suffix != ".safetensors":
            raise ValueError(
                f"{file.path.name} is no safetensors file, and opening such files may run code: load the model and "
                "save it again with save_pretrained."
            )
        weights.add(file)
        names.append(file.path.name)
    expected = expected_tensors(XGenMMConfig.from_pretrained(folder))
    compare(weights, expected, weights.dtypes, f"The weights in {folder} do not fit its config.json")
    return (*names, *([INDEX] if len(names) > 1 else []))


def _check_adapter(folder: Path) -> tuple[str, ...]:
    """Checks that an adapter's weights are there and whole; returns the names of its files."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds an adapter's config, but no {ADAPTER_WEIGHTS}.")
    open_weight_file(folder / ADAPTER_WEIGHTS).entries()
    return (ADAPTER_WEIGHTS, ADAPTER_CONFIG)


def adapter_base(folder: Path) -> str | None:
    """Returns the model that an adapter was trained on, or None."""
    return read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")


def with_base(contents: Contents, base: str) -> Contents:
    """Makes an adapter's config name the repository of its base; the folder's own file is left alone."""
    config = _with_fields(contents.folder / ADAPTER_CONFIG, base_model_name_or_path=base)
    return replace(contents, files=tuple(config if file.name == ADAPTER_CONFIG else file for file in contents.files))


def _with_fields(file: Path, **fields: object) -> File:
    """Returns a JSON file, or a copy in which some fields differ."""
    present = read_json(file)
    if isinstance(nested := present.get("image_processor"), dict):  # 5.x reads the map of the part that it builds
        fields["image_processor"] = {**nested, "auto_map": _IMAGE_PROCESSOR_MAP}
    if all(present.get(name) == value for name, value in fields.items()):
        return File(file.name, file)
    return File(file.name, (json.dumps({**present, **fields}, indent=2, sort_keys=True) + "\n").encode())


def _code_files() -> list[File]:
    """Returns this package's model code, which makes a repository load without the package."""
    with tempfile.TemporaryDirectory() as folder:
        return [File(name, (Path(folder) / name).read_bytes()) for name in copy_remote_code(folder)]
