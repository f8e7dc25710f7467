"""What is on disk: a checkpoint's weight files and JSON files, read tensor by tensor.

Every reader gives names, shapes and dtypes without touching a weight, and one tensor at a time on request. Pages of a
memory-mapped file count as the process's memory for as long as the mapping lives, so mappings are kept short.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.conversion.tensors import Shape, listed, one_line


if TYPE_CHECKING:
    import torch

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "base_model_weight.pt",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# Keys under which training loops keep the tensors.
STATE_KEYS = ("model_state_dict", "state_dict", "model")
HUB_FILES = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.model", "*.txt", "README.md")
# A pickle's mapping is renewed after this many bytes, which drops the pages read so far.
_REMAP_BYTES = 1 << 29


def safetensors_dtypes() -> "dict[str, torch.dtype]":
    """Returns torch's dtypes by the code that stands in a safetensors header."""
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }


class WeightFile(Protocol):
    """A file of tensors, or several: shapes and dtypes by name, and one tensor at a time."""

    path: Path

    def entries(self) -> dict[str, tuple[Shape, "torch.dtype"]]:
        """Returns shape and dtype by tensor name."""

    def load(self, name: str) -> "torch.Tensor":
        """Returns one tensor."""


@dataclass
class SafetensorsFile:
    """A safetensors file, opened again for each tensor so that only that tensor's pages are held."""

    path: Path

    def entries(self) -> dict[str, tuple[Shape, "torch.dtype"]]:
        """Returns shape and dtype by tensor name."""
        from safetensors import SafetensorError, safe_open

        dtypes = safetensors_dtypes()
        try:
            with safe_open(self.path, framework="pt") as handle:
                slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
                found = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
        except SafetensorError as error:
            raise ValueError(
                f"{self.path} is truncated or not a safetensors file ({one_line(error)}); fetch it again."
            ) from error
        odd = [f"{name} ({code})" for name, (_, code) in found.items() if code not in dtypes]
        if odd:
            raise ValueError(f"{self.path} holds tensors of types that this package does not read: {listed(odd)}.")
        return {name: (shape, dtypes[code]) for name, (shape, code) in found.items()}

    def load(self, name: str) -> "torch.Tensor":
        """Returns one tensor, a view of the mapped file."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as handle:
            return handle.get_tensor(name)


class PickleFile:
    """A file that `torch.save` wrote, read with `weights_only=True`: no code in it ever runs."""

    def __init__(self, path: Path):
        self.path = path
        self._tensors: dict[str, torch.Tensor] | None = None
        self._handed_out = 0

    def entries(self) -> dict[str, tuple[Shape, "torch.dtype"]]:
        """Returns shape and dtype by tensor name."""
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._mapped().items()}

    def load(self, name: str) -> "torch.Tensor":
        """Returns one tensor."""
        if self._handed_out > _REMAP_BYTES:
            self._tensors = None
            self._handed_out = 0
        tensor = self._mapped()[name]
        self._handed_out += tensor.nbytes
        return tensor

    def _mapped(self) -> "dict[str, torch.Tensor]":
        if self._tensors is None:
            self._tensors = _tensors_of(self._read(), self.path)
        return self._tensors

    def _read(self) -> Any:
        import pickle
        import zipfile

        import torch

        try:
            # The format before torch 1.6 is no zip archive and cannot be mapped.
            return torch.load(self.path, map_location="cpu", mmap=zipfile.is_zipfile(self.path), weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{self.path} is not a file of plain tensors: reading it would mean running code from it, or it is "
                "damaged; it was not executed. Save the state dict alone, or fetch the file again."
            ) from error
        except (RuntimeError, EOFError, KeyError, AttributeError, TypeError, IndexError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.path} is truncated or not a file that torch.save wrote; fetch it again."
            ) from error


def _tensors_of(content: Any, path: Path) -> "dict[str, torch.Tensor]":
    """Returns the state dict inside what a pickle holds."""
    import torch

    for key in STATE_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict; expected tensors by name, or a dict with {STATE_KEYS[0]!r}.")
    odd = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"{path} holds entries that are no tensors: {listed(odd)}; save the state dict alone.")
    check_plain(content, str(path))
    return {str(name): value for name, value in content.items()}


def check_plain(tensors: "Mapping[str, torch.Tensor]", place: str) -> None:
    """Checks that tensors are dense and hold values."""
    import torch

    odd = [f"{n} ({t.layout})" for n, t in tensors.items() if t.layout is not torch.strided]
    if odd:
        raise ValueError(f"{place} holds sparse tensors: {listed(odd)}; save them with to_dense().")
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty:
        raise ValueError(
            f"{place} holds tensors without values (meta device): {listed(empty)}; save the model after its weights "
            "were loaded."
        )


@dataclass
class MemoryTensors:
    """Tensors that are already in memory, behind the interface of a weight file."""

    tensors: "dict[str, torch.Tensor]"
    path: Path = Path()

    def entries(self) -> dict[str, tuple[Shape, "torch.dtype"]]:
        """Returns shape and dtype by tensor name."""
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.tensors.items()}

    def load(self, name: str) -> "torch.Tensor":
        """Returns one tensor."""
        return self.tensors[name]


class Weights:
    """The tensors of several weight files under one set of names."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._homes: dict[str, tuple[WeightFile, str]] = {}

    @classmethod
    def read(cls, path: Path) -> "Weights":
        """Opens all weight files of a checkpoint, see `weight_files`."""
        weights = cls()
        for file in weight_files(path):
            weights.add(file)
        return weights

    def add(self, file: WeightFile, rename: Callable[[str], str | None] = str) -> None:
        """Adds a file's tensors."""
        entries = file.entries()
        _check_merged(entries, file.path)
        for raw, (shape, dtype) in entries.items():
            name = rename(raw)
            if name is None:
                continue
            if name in self._homes:
                raise ValueError(f"{name} is in both {self._homes[name][0].path} and {file.path}; remove one of them.")
            self.shapes[name], self.dtypes[name] = shape, dtype
            self._homes[name] = (file, raw)

    def load(self, name: str) -> "torch.Tensor":
        """Returns one tensor by its name here."""
        file, raw = self._homes[name]
        return file.load(raw)


def locate(source: str | Path) -> Path:
    """Finds a checkpoint on disk, or downloads it from the Hub."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(f"There is no file or folder {source}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(HUB_FILES)))
    except Exception as error:  # its clients raise errors of several libraries when a download fails
        reason = one_line(error)[:200]
        raise FileNotFoundError(
            f"{source} is no file or folder here, and no repo that can be downloaded from the Hub ({reason})."
        ) from error


def weight_files(path: Path) -> list[WeightFile]:
    """Lists the weight files of a checkpoint."""
    if path.is_file():
        return [open_weight_file(path)]
    for name in INDEX_FILES:
        if (path / name).is_file():
            return _sharded(path, path / name)
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return [open_weight_file(path / name)]
    check_is_checkpoint(path)
    candidates = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", *PICKLE_SUFFIXES) and p.is_file())
    if not candidates:
        raise FileNotFoundError(
            f"{path} holds no weights: expected model.safetensors, {INDEX_FILES[0]} with its shards, or a .pt file."
        )
    if len(candidates) > 1:
        names = listed(candidate.name for candidate in candidates)
        raise ValueError(f"{path} holds several weight files and no index ({names}); name one of them.")
    return [open_weight_file(candidates[0])]


def check_is_checkpoint(folder: Path) -> None:
    """Checks that a folder without a model is none of those that people take for one."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = read_json(adapter).get("base_model_name_or_path") or "BASE"
        raise ValueError(
            f"{folder} holds a LoRA adapter, no whole model: load {base}, call PeftModel.from_pretrained(model, "
            f"{str(folder)!r}).merge_and_unload() and save the result, then use that folder."
        )
    snapshots = sorted(folder.glob("snapshots/*/config.json"), key=lambda path: path.stat().st_mtime)
    if snapshots:
        raise ValueError(
            f"{folder} is the Hub's cache folder of a repository; name the snapshot in it: {snapshots[-1].parent}."
        )


def _check_merged(names: Iterable[str], path: Path) -> None:
    unmerged = [name for name in names if ".lora_A." in name or ".lora_B." in name or ".base_layer." in name]
    if unmerged:
        raise ValueError(
            f"{path} holds {len(unmerged)} tensors of an adapter that is not merged ({listed(unmerged)}): load the "
            "model with PEFT, call merge_and_unload() and save the result."
        )


def open_weight_file(path: Path) -> WeightFile:
    """Returns the reader for a weight file, by its suffix."""
    if path.suffix not in (".safetensors", *PICKLE_SUFFIXES):
        raise ValueError(f"{path} is no weight file; expected .safetensors or {', '.join(PICKLE_SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; fetch it again.")
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path)


def _sharded(folder: Path, index: Path) -> list[WeightFile]:
    """Opens the shards that an index names, and checks that both agree on every tensor."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map; fetch it again.")
    if not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{index}: every value of weight_map must be a file name; fetch it again.")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if not name or re.search(r"[/\\\0:]", name) or name in (".", "..")]
    if outside:
        raise ValueError(
            f"{index} points outside its folder ({listed(repr(name) for name in outside)}); expected plain file names."
        )
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names files that are not there: {listed(absent)}; fetch them.")
    files = {name: open_weight_file(folder / name) for name in names}
    for name, file in files.items():
        _check_shard(name, set(file.entries()), {key for key, home in weight_map.items() if home == name}, index)
    return list(files.values())


def _check_shard(name: str, held: set[str], promised: set[str], index: Path) -> None:
    if promised - held:
        raise ValueError(
            f"{index} looks for {len(promised - held)} tensors in {name} that it does not hold "
            f"({listed(promised - held)}); the shard belongs to another checkpoint or is damaged."
        )
    if held - promised:
        raise ValueError(
            f"{name} holds {len(held - promised)} tensors that {index} does not know ({listed(held - promised)}); "
            "the shard belongs to another checkpoint."
        )
