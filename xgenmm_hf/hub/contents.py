"""What of a checkpoint folder belongs in a repository, checked before anything is sent."""

import json
import tempfile
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.conversion.sources import Weights, weight_files
from xgenmm_hf.conversion.tensors import listed
from xgenmm_hf.inference.source import is_original_layout, read_config
from xgenmm_hf.modeling.remote_code_xgenmm import AUTO_MAP, copy_remote_code


INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", ADAPTER_CONFIG)
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
    """What a folder gives to a repository.

    Attributes:
        folder: The folder.
        is_adapter: Whether it holds an adapter (PEFT) instead of a whole model.
        files: What goes along, without the card, sorted by name.
        left_out: Names of what stays here, sorted; the folder's card is none of them.
    """

    folder: Path
    is_adapter: bool
    files: tuple[File, ...]
    left_out: tuple[str, ...]


def collect(folder: Path) -> Contents:
    """Chooses what goes along: weights, settings, tokenizer, processor and the code, never a training run's state.

    Args:
        folder: A checkpoint folder, or one with an adapter.

    Returns:
        The contents; the config names the code for every Auto class, even if the folder's does not.

    Raises:
        ValueError: If it is no checkpoint of ours, something is missing, or weights and config do not fit.
        FileNotFoundError: If weights are missing.
    """
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {listed(missing)}: save the processor there too.")
    weights = check_adapter(folder) if is_adapter else check_model(folder)
    wanted = (*weights, *SETTINGS)
    files = {file.name: file for file in code_files()}
    left_out = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in wanted):
            files[name] = File(name, path)
        elif name != CARD and name not in files:
            left_out.append(name)
    left_out = [name for name in left_out if name not in files and name != "config.json"]
    if not is_adapter:
        files["config.json"] = File("config.json", config_with_code(folder))
    return Contents(folder, is_adapter, tuple(files[name] for name in sorted(files)), tuple(left_out))


def check_model(folder: Path) -> tuple[str, ...]:
    """Checks that a folder's weights are the safetensors of the model that its config describes.

    Args:
        folder: The folder.

    Returns:
        Names of the weight files and of their index, of which the model is read.

    Raises:
        ValueError: If it is in the original layout, has other weights than safetensors, or they do not fit.
        FileNotFoundError: If weights are missing.
    """
    if is_original_layout(read_config(folder)):
        raise ValueError(f"{folder} is in the original layout: convert it first with `xgenmm convert {folder} OUT`.")
    from xgenmm_hf.conversion.verify import expected_tensors
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
    odd = set(weights.shapes) ^ set(expected)
    odd |= {name for name in set(expected) - odd if tuple(weights.shapes[name]) != expected[name]}
    if odd:
        raise ValueError(
            f"The weights in {folder} do not fit its config.json ({len(odd)} tensors differ: {listed(sorted(odd))}); "
            "use the files of one model."
        )
    return (*names, *([INDEX] if len(names) > 1 else []))


def check_adapter(folder: Path) -> tuple[str, ...]:
    """Checks that an adapter's weights are there and whole.

    Args:
        folder: The folder.

    Returns:
        Names of its files.

    Raises:
        ValueError: If the file is damaged.
        FileNotFoundError: If there is none.
    """
    from xgenmm_hf.conversion.sources import open_weight_file

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds an adapter's config, but no adapter_model.safetensors.")
    open_weight_file(file).entries()
    return ADAPTER_WEIGHTS


def adapter_base(folder: Path) -> str | None:
    """Returns the model that an adapter was trained on, or None."""
    file = folder / ADAPTER_CONFIG
    return read_json(file).get("base_model_name_or_path") if file.is_file() else None


def with_base(contents: Contents, base: str) -> Contents:
    """Makes an adapter's config name the model that it is for; the folder's own is left alone.

    Args:
        contents: What a folder with an adapter gives.
        base: The model's repository.

    Returns:
        The contents, in which the config names it in place of where the model lay in training.
    """
    if adapter_base(contents.folder) == base:
        return contents
    fields = {**read_json(contents.folder / ADAPTER_CONFIG), "base_model_name_or_path": base}
    config = File(ADAPTER_CONFIG, (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode())
    return replace(contents, files=tuple(config if file.name == ADAPTER_CONFIG else file for file in contents.files))


def code_files() -> list[File]:
    """Returns this package's model code, which makes a repository load without the package."""
    with tempfile.TemporaryDirectory() as folder:
        return [File(name, (Path(folder) / name).read_bytes()) for name in copy_remote_code(folder)]


def config_with_code(folder: Path) -> Path | bytes:
    """Returns a folder's config: the file, or a copy that names the code where the file does not."""
    file = folder / "config.json"
    fields = read_json(file)
    if fields.get("auto_map") == AUTO_MAP:
        return file
    return (json.dumps({**fields, "auto_map": AUTO_MAP}, indent=2, sort_keys=True) + "\n").encode()
