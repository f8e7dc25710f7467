"""Planned tensors to safetensors files, one shard in memory at a time."""

import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite, isnan, nan
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from xgenmm_hf.conversion.files import output_folder, write_json
from xgenmm_hf.conversion.sources import INDEX_FILES, Weights, weight_files
from xgenmm_hf.conversion.tensors import Target, assemble, listed
from xgenmm_hf.conversion.verify import check_same, shapes_and_dtypes


Progress = Callable[[str, int, int], None]

_PATTERN = "model{suffix}.safetensors"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)?\s*", re.IGNORECASE)
_CHECKED_NUMBERS = 1 << 18


def write_checkpoint(
    out: str | Path,
    targets: Iterable[Target],
    written: Mapping[str, torch.Tensor],
    load: Callable[[str], torch.Tensor],
    max_shard_size: int | str,
    progress: Progress | None,
    write_side_files: Callable[[Path], list[str]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Writes a folder that is checked and appears whole or not at all; returns the names of its shards, and notes.

    `written` are the targets without values, see `describe`; `load` gives a source tensor.
    """
    shards = split_into_shards(written, max_shard_size)
    notes: list[str] = []
    with output_folder(out, sum(tensor.nbytes for tensor in written.values()), notes) as folder:
        notes += write_side_files(folder)
        notes += write_shards(folder, shards, {target.name: target for target in targets}, written, load, progress)
        complaint = f"What was written to {folder} differs from what should be there"
        check_same(shapes_and_dtypes(Weights(weight_files(folder)).meta), shapes_and_dtypes(written), complaint)
    return tuple(shards), tuple(notes)


def split_into_shards(written: Mapping[str, torch.Tensor], max_shard_size: int | str) -> dict[str, list[str]]:
    """Fills weight files in order with tensors' names; a tensor larger than the limit gets a file of its own."""
    size = _SIZE.fullmatch(str(max_shard_size))
    if size is None or float(size[1]) == 0:
        raise ValueError(f"{max_shard_size!r} is no size; write for example 5GB, 500MB or a number of bytes.")
    limit = size[0].strip() if size[2] else int(float(size[1]))
    return split_torch_state_dict_into_shards(
        dict(written), filename_pattern=_PATTERN, max_shard_size=limit
    ).filename_to_tensors


def write_shards(
    folder: Path,
    shards: Mapping[str, list[str]],
    targets: Mapping[str, Target],
    written: Mapping[str, torch.Tensor],
    load: Callable[[str], torch.Tensor],
    progress: Progress | None = None,
) -> list[str]:
    """Writes shards and, where there are several, their index."""
    total = sum(tensor.nbytes for tensor in written.values())
    done, odd, empty = 0, [], []
    for file, names in shards.items():
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            tensors[name] = assemble(targets[name], load, written[name].dtype).contiguous()
            largest = _largest(tensors[name])
            if not isfinite(largest):
                odd.append(name)
            elif largest == 0 and tensors[name].dim() > 1:
                empty.append(name)
            done += tensors[name].nbytes
            if progress is not None:
                progress(file, done, total)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX_FILES[0], index)
    notes = []
    if odd:
        notes.append(f"{len(odd)} tensors hold NaN or infinity ({listed(odd)}): the checkpoint is damaged.")
    if empty:
        notes.append(f"{len(empty)} matrices hold nothing but zeros ({listed(empty)}): were they ever filled?")
    return notes


def _largest(tensor: torch.Tensor) -> float:
    """Returns the largest magnitude, or NaN if there is one; works in blocks, which do not fragment the heap."""
    largest = 0.0
    for block in tensor.view(-1).split(_CHECKED_NUMBERS):
        low, high = block.aminmax()
        if isnan(low):
            return nan
        largest = max(largest, -float(low), float(high))
    return largest
