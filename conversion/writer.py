"""Planned tensors to safetensors files, one shard in memory at a time."""

import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite, isnan, nan, prod
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from xgenmm_hf.conversion.files import write_json
from xgenmm_hf.conversion.tensors import Target, assemble, listed


Progress = Callable[[str, int, int], None]
Shards = dict[str, list[Target]]

INDEX_NAME = "model.safetensors.index.json"
_PATTERN = "model{suffix}.safetensors"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)?\s*", re.IGNORECASE)
_CHECKED_NUMBERS = 1 << 18


def split_into_shards(targets: list[Target], dtypes: Mapping[str, torch.dtype], max_shard_size: int | str) -> Shards:
    """Fills shards in order; a tensor larger than the limit gets a shard of its own."""
    size = _SIZE.fullmatch(str(max_shard_size))
    if size is None or float(size[1]) == 0:
        raise ValueError(f"{max_shard_size!r} is no size; write for example 5GB, 500MB or a number of bytes.")
    limit = size[0].strip() if size[2] else int(float(size[1]))
    shapes = {t.name: torch.empty(t.shape, dtype=dtypes[t.name], device="meta") for t in targets}
    split = split_torch_state_dict_into_shards(shapes, filename_pattern=_PATTERN, max_shard_size=limit)
    by_name = {target.name: target for target in targets}
    return {file: [by_name[name] for name in names] for file, names in split.filename_to_tensors.items()}


def num_bytes(targets: Iterable[Target], dtypes: Mapping[str, torch.dtype]) -> int:
    """Returns the size of targets in bytes."""
    return sum(prod(target.shape) * dtypes[target.name].itemsize for target in targets)


def write_shards(
    folder: Path,
    shards: Shards,
    dtypes: Mapping[str, torch.dtype],
    load: Callable[[str], torch.Tensor],
    progress: Progress | None = None,
) -> list[str]:
    """Writes shards and, where there are several, their index."""
    total = sum(num_bytes(targets, dtypes) for targets in shards.values())
    done, odd, empty = 0, [], []
    for file, targets in shards.items():
        tensors: dict[str, torch.Tensor] = {}
        for target in targets:
            tensors[target.name] = assemble(target, load, dtypes[target.name]).contiguous()
            largest = _largest(tensors[target.name])
            if not isfinite(largest):
                odd.append(target.name)
            elif largest == 0 and len(target.shape) > 1:
                empty.append(target.name)
            done += tensors[target.name].nbytes
            if progress is not None:
                progress(file, done, total)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {target.name: file for file, targets in shards.items() for target in targets}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX_NAME, index)
    notes = []
    if odd:
        notes.append(f"{len(odd)} tensors hold NaN or infinity ({listed(odd)}): the checkpoint is damaged.")
    if empty:
        notes.append(f"{len(empty)} matrices hold nothing but zeros ({listed(empty)}): were they ever filled?")
    return notes


def _largest(tensor: torch.Tensor) -> float:
    """Returns the largest magnitude, or NaN where there is one; small blocks leave no holes in the heap."""
    largest = 0.0
    for block in tensor.view(-1).split(_CHECKED_NUMBERS):
        low, high = block.aminmax()
        if isnan(low):
            return nan
        largest = max(largest, -float(low), float(high))
    return largest
