"""What is on disk: a checkpoint's weight files and JSON files, read tensor by tensor.

Every file gives names, shapes and dtypes without touching a weight, and one tensor at a time on request. Pages of a
memory-mapped file count as the process's memory for as long as the mapping lives, so mappings are renewed.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xgenmm_hf.conversion.files import one_line, read_json
from xgenmm_hf.conversion.tensors import Shape, listed


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
SAFETENSORS, PICKLES = ".safetensors", (".pt", ".pth", ".bin", ".ckpt")
# Keys under which training loops keep the tensors.
STATE_KEYS = ("model_state_dict", "state_dict", "model")
HUB_FILES = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.model", "*.txt", "README.md")
# A mapping is renewed after this many bytes, which drops the pages read so far.
_REMAP_BYTES = 1 << 26


class WeightFile:
    """A safetensors file, or one that `torch.save` wrote; no code in it ever runs."""

    def __init__(self, path: Path):
        if path.suffix not in (SAFETENSORS, *PICKLES):
            raise ValueError(f"{path} is no weight file; expected {SAFETENSORS} or {', '.join(PICKLES)}.")
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty; fetch it again.")
        self.path = path
        self._mapped: dict[str, torch.Tensor] | None = None
        self._handed_out = 0

    def entries(self) -> "dict[str, torch.Tensor]":
        """Returns the tensors by name, without values (on the meta device)."""
        tensors = _read_safetensors(self.path) if self.path.suffix == SAFETENSORS else self._pickled()
        return {name: tensor.to("meta") for name, tensor in tensors.items()}

    def load(self, name: str) -> "torch.Tensor":
        """Returns one tensor, a view of the mapped file."""
        if self.path.suffix == SAFETENSORS:  # opened again for each tensor, so that only that tensor's pages are held
            return _read_safetensors(self.path, name)[name]
        if self._handed_out > _REMAP_BYTES:
            self._mapped, self._handed_out = None, 0
        tensor = self._pickled()[name]
        self._handed_out += tensor.nbytes
        return tensor

    def _pickled(self) -> "dict[str, torch.Tensor]":
        if self._mapped is None:
            self._mapped = _read_pickle(self.path)
        return self._mapped


def _read_safetensors(path: Path, *names: str) -> "dict[str, torch.Tensor]":
    """Returns views of some tensors of a mapped file, by default of all."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in names or handle.keys()}
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({one_line(error)}); fetch it again."
        ) from error


def _read_pickle(path: Path) -> "dict[str, torch.Tensor]":
    """Maps the state dict inside a file that `torch.save` wrote, with `weights_only=True`."""
    import pickle
    import zipfile

    import torch

    try:
        # The format before torch 1.6 is no zip archive and cannot be mapped.
        content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of plain tensors: reading it would mean running code from it, or it is damaged; it "
            "was not executed. Save the state dict alone, or fetch the file again."
        ) from error
    except (RuntimeError, EOFError, KeyError, AttributeError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or not a file that torch.save wrote; fetch it again.") from error
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


class Weights:
    """The tensors of several weight files under one set of names: `meta` has them without values."""

    def __init__(self, files: Iterable[WeightFile] = ()):
        self.meta: dict[str, torch.Tensor] = {}
        self._homes: dict[str, tuple[WeightFile, str]] = {}
        for file in files:
            self.add(file)

    @property
    def shapes(self) -> dict[str, Shape]:
        """The tensors' shapes by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.meta.items()}

    def add(self, file: WeightFile, rename: Callable[[str], str | None] = str) -> None:
        """Adds a file's tensors; None for a new name leaves one out."""
        entries = file.entries()
        unmerged = [name for name in entries if ".lora_A." in name or ".lora_B." in name or ".base_layer." in name]
        if unmerged:
            raise ValueError(
                f"{file.path} holds {len(unmerged)} tensors of an adapter that is not merged ({listed(unmerged)}): "
                "load the model with PEFT, call merge_and_unload() and save the result."
            )
        for raw, tensor in entries.items():
            name = rename(raw)
            if name is None:
                continue
            if name in self._homes:
                raise ValueError(f"{name} is in both {self._homes[name][0].path} and {file.path}; remove one of them.")
            self.meta[name], self._homes[name] = tensor, (file, raw)

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
        return [WeightFile(path)]
    for name in INDEX_FILES:
        if (path / name).is_file():
            return _sharded(path, path / name)
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return [WeightFile(path / name)]
    check_is_checkpoint(path)
    candidates = sorted(p for p in path.iterdir() if p.suffix in (SAFETENSORS, *PICKLES) and p.is_file())
    if not candidates:
        raise FileNotFoundError(
            f"{path} holds no weights: expected model.safetensors, {INDEX_FILES[0]} with its shards, or a .pt file."
        )
    if len(candidates) > 1:
        names = listed(candidate.name for candidate in candidates)
        raise ValueError(f"{path} holds several weight files and no index ({names}); name one of them.")
    return [WeightFile(candidates[0])]


def check_is_checkpoint(folder: Path) -> None:
    """Raises a ValueError for a folder that is an adapter, or the Hub's cache of a repository, instead of a model."""
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


def _sharded(folder: Path, index: Path) -> list[WeightFile]:
    """Opens the shards that an index names, and checks that both agree on every tensor."""
    weight_map = read_json(index).get("weight_map")
    if not weight_map or not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise ValueError(f"{index} has no weight_map from tensors to file names; fetch it again.")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if not name or re.search(r"[/\\\0:]", name) or name in (".", "..")]
    if outside:
        raise ValueError(
            f"{index} points outside its folder ({listed(repr(name) for name in outside)}); expected plain file names."
        )
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names files that are not there: {listed(absent)}; fetch them.")
    files = {name: WeightFile(folder / name) for name in names}
    for name, file in files.items():
        held, promised = set(file.entries()), {key for key, home in weight_map.items() if home == name}
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
    return list(files.values())
