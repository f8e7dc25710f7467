"""Writing shards as they stream past, and a folder that appears whole or not at all.

A safetensors file is a header (length, JSON with dtype, shape and place of every tensor) followed by the tensors'
bytes. As the plan knows all shapes beforehand, the header is written first and the tensors follow one by one, so no
shard is ever held in memory.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING

from xgenmm_hf.conversion.files import write_json
from xgenmm_hf.conversion.sources import safetensors_dtypes
from xgenmm_hf.conversion.tensors import Piece, Target


if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

SHARD_NAME = "model-{index:05d}-of-{count:05d}.safetensors"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_BLOCK_ELEMENTS = 1 << 22
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Shard:
    """One output file and the targets in it, in writing order."""

    name: str
    targets: tuple[Target, ...]


def parse_size(size: int | str) -> int:
    """Reads a size such as `5GB` (decimal), `512MiB` (binary) or a number of bytes.

    Args:
        size: The size.

    Returns:
        Bytes.

    Raises:
        ValueError: If it is no positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    unit = _UNITS.get(match.group(2).upper().removesuffix("B") + "B") if match and match.group(2) else 1
    if match is None or unit is None or float(match.group(1)) * unit < 1:
        raise ValueError(f"{size!r} is no size; write for example 5GB, 512MiB or a number of bytes.")
    return int(float(match.group(1)) * unit)


def split_into_shards(targets: list[Target], dtypes: Mapping[str, "torch.dtype"], max_bytes: int) -> list[Shard]:
    """Fills shards in order; a tensor larger than the limit gets a shard of its own.

    Args:
        targets: What to write, in order.
        dtypes: Dtype of each target by name.
        max_bytes: Largest size of a shard's tensors.

    Returns:
        The shards with their file names.
    """
    groups: list[list[Target]] = [[]]
    filled = 0
    for target in targets:
        size = num_bytes(target, dtypes[target.name])
        if groups[-1] and filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(target)
        filled += size
    if len(groups) == 1:
        return [Shard(SINGLE_NAME, tuple(groups[0]))]
    return [
        Shard(SHARD_NAME.format(index=index, count=len(groups)), tuple(group)) for index, group in enumerate(groups, 1)
    ]


def num_bytes(target: Target, dtype: "torch.dtype") -> int:
    """Returns the size of a target in bytes."""
    return prod(target.shape) * dtype.itemsize


def write_safetensors(
    path: Path,
    targets: tuple[Target, ...],
    dtypes: Mapping[str, "torch.dtype"],
    load: Callable[[str], "torch.Tensor"],
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes targets to one safetensors file, a piece at a time.

    Args:
        path: The file to write.
        targets: What to write.
        dtypes: Dtype of each target by name.
        load: Gives a source tensor by name.
        on_bytes: Called with the number of bytes after each block written.

    Raises:
        ValueError: If a value does not fit into the dtype.
    """
    # Wide dtypes first: then every tensor starts at a multiple of its item size.
    ordered = sorted(targets, key=lambda target: -dtypes[target.name].itemsize)
    with path.open("wb") as handle:
        handle.write(_header(ordered, dtypes))
        for target in ordered:
            for piece in target.pieces:
                _write_piece(handle, target, piece, dtypes[target.name], load, on_bytes)


def _header(targets: list[Target], dtypes: Mapping[str, "torch.dtype"]) -> bytes:
    codes = {dtype: code for code, dtype in safetensors_dtypes().items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for target in targets:
        end = offset + num_bytes(target, dtypes[target.name])
        header[target.name] = {
            "dtype": codes[dtypes[target.name]],
            "shape": list(target.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_piece(
    handle: IO[bytes],
    target: Target,
    piece: Piece,
    dtype: "torch.dtype",
    load: Callable[[str], "torch.Tensor"],
    on_bytes: Callable[[int], None],
) -> None:
    import torch

    flat = load(piece.source)[piece.start : piece.stop].reshape(-1)
    for start in range(0, flat.numel(), _BLOCK_ELEMENTS):
        block = flat[start : start + _BLOCK_ELEMENTS]
        converted = block.to(dtype)
        if dtype == torch.float16 and block.dtype != dtype and not torch.equal(block.isfinite(), converted.isfinite()):
            raise ValueError(
                f"{piece.source} holds values beyond float16's range; convert to bfloat16 or float32 instead."
            )
        data = converted.contiguous().view(torch.uint8).numpy()
        handle.write(data.data)
        on_bytes(data.nbytes)


def write_shards(
    folder: Path,
    shards: list[Shard],
    dtypes: Mapping[str, "torch.dtype"],
    load: Callable[[str], "torch.Tensor"],
    progress: Progress | None = None,
) -> int:
    """Writes shards and, where there are several, their index.

    Args:
        folder: An existing folder.
        shards: What to write.
        dtypes: Dtype of each target by name.
        load: Gives a source tensor by name.
        progress: Called with the shard's name, bytes written and bytes to write.

    Returns:
        Bytes of all tensors.
    """
    total = sum(num_bytes(target, dtypes[target.name]) for shard in shards for target in shard.targets)
    done = 0
    for shard in shards:

        def count(size: int, name: str = shard.name) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(name, done, total)

        write_safetensors(folder / shard.name, shard.targets, dtypes, load, count)
    if len(shards) > 1:
        weight_map = {target.name: shard.name for shard in shards for target in shard.targets}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX_NAME, index)
    return total
