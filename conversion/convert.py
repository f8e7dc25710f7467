"""Original checkpoints -> ours: read shard by shard, renamed, folded, written, checked.

Data flows one way: files on disk -> names and shapes -> plan (checked) -> shards -> side files -> check -> the folder
moves into place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from xgenmm_hf.conversion.files import check_output_folder, output_folder, read_json
from xgenmm_hf.conversion.image_mode import ImageMode, decide_image_mode
from xgenmm_hf.conversion.original_config import (
    GENERATION_NAME,
    PREPROCESSOR_NAME,
    VISION_CONFIG_NAME,
    build_config,
    first_added_id,
    parse_original_config,
    read_original_config,
    with_model_type,
)
from xgenmm_hf.conversion.side_files import write_side_files
from xgenmm_hf.conversion.sources import Weights, check_plain, locate
from xgenmm_hf.conversion.tensors import Plan, assemble, listed, plan_conversion
from xgenmm_hf.conversion.towers import VisionEncoder, choose_vision_config, read_vision_encoder
from xgenmm_hf.conversion.verify import expected_tensors, verify_model_folder
from xgenmm_hf.conversion.writer import Progress, num_bytes, split_into_shards, write_shards
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig


DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion read and wrote.

    Attributes:
        folder: The converted checkpoint.
        num_source_tensors: Tensors read.
        num_tensors: Tensors written.
        num_parameters: Numbers in them.
        num_bytes: Their size.
        shards: Names of the weight files.
        dtype: Dtype of most weights.
        image_mode: `"anyres"`, `"none"` or `"pad"`.
        dropped: Source tensors left out because no feature depends on them.
        skipped: Tensors of the separate vision tower's folder that are not the tower's (a text tower).
        notes: Sentences a user should read.
    """

    folder: Path
    num_source_tensors: int
    num_tensors: int
    num_parameters: int
    num_bytes: int
    shards: tuple[str, ...]
    dtype: str
    image_mode: str
    dropped: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Original:
    """An original checkpoint: its tensors (a separate vision tower's included) and what its JSON files say."""

    folder: Path
    weights: Weights
    config: dict[str, Any]
    side_files: dict[str, dict[str, Any]]
    vision_config: dict[str, Any] | None
    encoder: VisionEncoder | None


def convert_state_dict(tensors: Mapping[str, torch.Tensor], config: XGenMMConfig) -> dict[str, torch.Tensor]:
    """Converts the original's tensors to ours, in memory.

    Args:
        tensors: The original's tensors by name, with or without `vlm.` and training wrappers; the vision tower in
            Transformers' or OpenCLIP's names, under `vision_encoder.`.
        config: The model's config.

    Returns:
        Our tensors by name; they load strictly into `XGenMMForConditionalGeneration(config)`.

    Raises:
        ValueError: If a tensor is unknown, missing or of another shape; the message lists the names.
    """
    check_plain({name: tensor for name, tensor in tensors.items() if not tensor.is_meta}, "The state dict")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plan = plan_conversion(shapes, expected_tensors(config), first_added_id(config))
    return {target.name: assemble(target, tensors.__getitem__) for target in plan.targets}


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    vision_config: str | Path | None = None,
    vision_encoder: str | Path | None = None,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: str = "auto",
    image_mode: str | None = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    progress: Progress | None = None,
) -> ConversionResult:
    """Converts an original checkpoint to a self-contained folder in this package's layout.

    Args:
        source: A folder, weight file or Hub repo id in one of the original layouts.
        out: The folder to make; must not exist or be empty.
        vision_config: JSON file that describes a tower other than the release's.
        vision_encoder: Folder or repo id with the vision tower, for checkpoints that lack it.
        config: The original's `config.json`, for weight files that have none beside them.
        tokenizer: Folder or repo id with the tokenizer files, for checkpoints that have none.
        dtype: `"auto"` keeps each tensor's dtype; otherwise `"float32"`, `"bfloat16"` or `"float16"`.
        image_mode: `"anyres"`, `"none"` or `"pad"`; needed where the checkpoint's files do not decide.
        max_shard_size: Largest weight file, such as `"5GB"`, or bytes.
        progress: Called with a file's name, bytes done and bytes to write.

    Returns:
        What was done.

    Raises:
        ValueError: If the checkpoint is broken, incomplete or does not fit its config.
        OSError: If something is missing or `out` cannot be written.
    """
    check_output_folder(out)
    if dtype not in DTYPES:
        raise ValueError(f"The dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    tokenizer_folder = locate(tokenizer) if tokenizer is not None else None
    original = open_original(source, vision_config, vision_encoder, config)
    ours, mode = _our_config(original, image_mode, dtype)
    plan = plan_conversion(original.weights.shapes, expected_tensors(ours), first_added_id(ours))
    dtypes = target_dtypes(plan, original.weights, dtype)
    shards = split_into_shards(plan.targets, dtypes, max_shard_size)
    total = num_bytes(plan.targets, dtypes)
    notes: list[str] = []
    with output_folder(out, total, on_leftovers=lambda folders: notes.append(leftovers_note(folders))) as folder:
        notes += write_side_files(folder, Path(out), original, ours, mode, plan, dtypes, tokenizer_folder)
        notes += write_shards(folder, shards, dtypes, original.weights.load, progress)
        verify_model_folder(folder, ours, dtypes)
    return ConversionResult(
        folder=Path(out),
        num_source_tensors=len(original.weights.shapes),
        num_tensors=len(plan.targets),
        num_parameters=sum(prod(target.shape) for target in plan.targets),
        num_bytes=total,
        shards=tuple(shards),
        dtype=dtype_name(main_dtype(original.weights, dtype)),
        image_mode=mode.aspect_ratio,
        dropped=tuple(sorted(plan.dropped)),
        skipped=tuple(sorted(original.encoder.skipped)) if original.encoder else (),
        notes=tuple(notes),
    )


def open_original(
    source: str | Path,
    vision_config: str | Path | None = None,
    vision_encoder: str | Path | None = None,
    config: str | Path | None = None,
) -> Original:
    """Opens an original checkpoint without reading its weights; the arguments are those of `convert_checkpoint`."""
    path = locate(source)
    folder = path if path.is_dir() else path.parent
    if config is not None:
        original = parse_original_config(read_json(Path(config)), Path(config))
    else:
        original = read_original_config(folder)
    weights = Weights.read(path)
    encoder = None
    if vision_encoder is not None:
        encoder = read_vision_encoder(vision_encoder)
        encoder.add_to(weights)
    stated = Path(vision_config) if vision_config is not None else folder / VISION_CONFIG_NAME
    names = (PREPROCESSOR_NAME, GENERATION_NAME)
    return Original(
        folder=folder,
        weights=weights,
        config=original,
        side_files={name: read_json(folder / name) for name in names if (folder / name).is_file()},
        vision_config=read_json(stated) if vision_config is not None or stated.is_file() else None,
        encoder=encoder,
    )


def _our_config(original: Original, asked_mode: str | None, dtype: str) -> tuple[XGenMMConfig, ImageMode]:
    shapes = original.weights.shapes
    fields = with_model_type(original.config, shapes)
    tower = choose_vision_config(shapes, fields, original.vision_config, original.encoder)
    name = dtype_name(main_dtype(original.weights, dtype))
    tile_size = build_config(fields, tower, ImageMode("none"), name, shapes).tile_size
    mode = decide_image_mode(fields, original.side_files.get(PREPROCESSOR_NAME), asked_mode, tile_size)
    return build_config(fields, tower, mode, name, shapes), mode


def target_dtypes(plan: Plan, weights: Weights, dtype: str) -> dict[str, torch.dtype]:
    """Decides each target's dtype, those of the padding rows included; `"auto"` keeps and promotes the sources'."""
    targets = (*plan.targets, *plan.padding)
    sources = {piece.source for target in targets for piece in target.pieces}
    odd = [f"{name} ({dtype_name(weights.dtypes[name])})" for name in sources if not _is_float(weights.dtypes[name])]
    if odd:
        raise ValueError(
            f"These tensors hold no floating-point numbers: {listed(odd)}; quantised weights do not convert."
        )
    if dtype != "auto":
        return {target.name: getattr(torch, dtype) for target in targets}
    chosen = {}
    for target in targets:
        found = [weights.dtypes[piece.source] for piece in target.pieces]
        chosen[target.name] = found[0]
        for other in found[1:]:
            chosen[target.name] = torch.promote_types(chosen[target.name], other)
    return chosen


def _is_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize >= 2


def main_dtype(weights: Weights, dtype: str) -> torch.dtype:
    """Returns the dtype that a config should state: the chosen one, or the one that most numbers have."""
    if dtype != "auto":
        return getattr(torch, dtype)
    counts: dict[torch.dtype, int] = {}
    for name, found in weights.dtypes.items():
        counts[found] = counts.get(found, 0) + prod(weights.shapes[name])
    return max(counts, key=lambda found: counts[found], default=torch.float32)


def dtype_name(dtype: torch.dtype) -> str:
    """Returns a dtype's name without `torch.`."""
    return str(dtype).removeprefix("torch.")


def leftovers_note(folders: list[Path]) -> str:
    """Returns the sentence about folders of killed runs that were removed."""
    return f"Removed what an interrupted run had left: {listed(str(folder) for folder in folders)}."
