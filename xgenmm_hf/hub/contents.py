"""Which files of a checkpoint folder belong in a repository, checked before anything is sent."""

import json
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from xgenmm_hf.conversion.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.conversion.sources import INDEX_FILES, WeightFile, Weights, weight_files
from xgenmm_hf.conversion.tensors import listed
from xgenmm_hf.inference.source import resolve_model
from xgenmm_hf.modeling.remote_code_xgenmm import AUTO_MAP, copy_remote_code


# Files of a repository: names there -> paths on this machine, or contents made here.
Files = dict[str, Path | bytes]

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


def size_of(content: Path | bytes) -> int:
    """Returns the bytes of a file's content."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def collect(folder: Path) -> tuple[Files, list[str]]:
    """Returns the files to send: weights, settings, tokenizer, processor and code, never a training run's state.

    Also returns the names of the files that are not sent. The folder's own card is in neither.
    """
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {listed(missing)}: save the processor there too.")
    wanted = (*(_check_adapter(folder) if is_adapter else _check_model(folder)), *SETTINGS)
    files, left_out = _code_files(), []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in wanted):
            files[name] = path
        elif name not in (CARD, "config.json", *files):
            left_out.append(name)
    for name in _PROCESSOR_MAPS.keys() & files.keys():
        files[name] = with_fields(folder / name, auto_map=_PROCESSOR_MAPS[name])
    if not is_adapter:
        files["config.json"] = with_fields(folder / "config.json", auto_map=AUTO_MAP)
    return files, left_out


def _check_model(folder: Path) -> tuple[str, ...]:
    """Checks that weights are safetensors of the model that the config describes; returns the names of their files."""
    resolve_model(folder)
    from xgenmm_hf.conversion.verify import check_same, expected_tensors
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig

    files = weight_files(folder)
    for name in (file.path.name for file in files if file.path.suffix != ".safetensors"):
        raise ValueError(
            f"{name} is no safetensors file, and opening such files may run code: load the model and save it again "
            "with save_pretrained."
        )
    expected = expected_tensors(XGenMMConfig.from_pretrained(folder))
    check_same(Weights(files).shapes, expected, f"The weights in {folder} do not fit its config.json")
    return (*(file.path.name for file in files), *(INDEX_FILES[:1] if len(files) > 1 else ()))


def _check_adapter(folder: Path) -> tuple[str, ...]:
    """Checks that an adapter's weights are there and whole; returns the names of its files."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds an adapter's config, but no {ADAPTER_WEIGHTS}.")
    WeightFile(folder / ADAPTER_WEIGHTS).entries()
    return (ADAPTER_WEIGHTS, ADAPTER_CONFIG)


def with_fields(file: Path, **fields: object) -> Path | bytes:
    """Returns a JSON file, or the content of a copy in which some fields differ."""
    present = read_json(file)
    if isinstance(nested := present.get("image_processor"), dict):  # 5.x reads the map of the part that it builds
        fields["image_processor"] = {**nested, "auto_map": _IMAGE_PROCESSOR_MAP}
    if all(present.get(name) == value for name, value in fields.items()):
        return file
    return (json.dumps({**present, **fields}, indent=2, sort_keys=True) + "\n").encode()


def _code_files() -> Files:
    """Returns this package's model code, which makes a repository load without the package."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: (Path(folder) / name).read_bytes() for name in copy_remote_code(folder)}
