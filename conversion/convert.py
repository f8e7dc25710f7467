"""Original checkpoints -> ours: read shard by shard, renamed, folded, written, checked.

Data flows one way: files on disk -> names and shapes -> plan (checked) -> sizes and dtypes (the plan, followed on the
meta device) -> side files and shards -> check -> the folder moves into place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xgenmm_hf.conversion.files import check_output_folder, read_json, read_json_if_there
from xgenmm_hf.conversion.original_config import (
    CONFIG_NAME,
    GENERATION_NAME,
    PREPROCESSOR_NAME,
    VISION_CONFIG_NAME,
    build_config,
    decide_image_mode,
    first_added_id,
    read_original_config,
    with_model_type,
)
from xgenmm_hf.conversion.side_files import write_side_files
from xgenmm_hf.conversion.sources import Weights, check_plain, locate, weight_files
from xgenmm_hf.conversion.tensors import assemble, canonical_names, describe, plan_conversion
from xgenmm_hf.conversion.towers import VisionEncoder, add_vision_encoder, choose_vision_config
from xgenmm_hf.conversion.verify import expected_tensors
from xgenmm_hf.conversion.writer import Progress, write_checkpoint
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
        out: The folder to create; must be new or empty.
        vision_config: JSON file that describes a tower other than the release's.
        vision_encoder: Folder or repo id with the vision tower, for checkpoints that lack it.
        config: The original's `config.json`, for weight files that have none next to them.
        tokenizer: Folder or repo id with the tokenizer files, for checkpoints that have none.
        dtype: `"auto"` keeps each tensor's dtype; otherwise `"float32"`, `"bfloat16"` or `"float16"`.
        image_mode: `"anyres"`, `"none"` or `"pad"`; needed where the checkpoint's files do not decide.
        max_shard_size: Largest weight file, such as `"5GB"`, or bytes.
        progress: Called with a file's name, bytes done and bytes to write.

    Returns:
        What was read and written.

    Raises:
        ValueError: If the checkpoint is broken, incomplete or does not fit its config.
        OSError: If something is missing or `out` cannot be written.
    """
    check_output_folder(out)
    if dtype not in DTYPES:
        raise ValueError(f"The dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    tokenizer_folder = locate(tokenizer) if tokenizer is not None else None
    original = open_original(source, vision_config, vision_encoder, config)
    weights, wanted = original.weights, None if dtype == "auto" else getattr(torch, dtype)
    stated_dtype = main_dtype(weights.meta) if wanted is None else dtype
    shapes = {name: tuple(weights.meta[raw].shape) for name, raw in canonical_names(weights.meta).items()}
    fields = with_model_type(original.config, shapes)
    tower = choose_vision_config(shapes, fields, original.vision_config, original.encoder)
    mode = decide_image_mode(fields, original.side_files[PREPROCESSOR_NAME], image_mode)
    ours = build_config(fields, tower, mode, stated_dtype, shapes)
    plan = plan_conversion(weights.shapes, expected_tensors(ours), first_added_id(ours))
    written = describe(plan.targets, weights.meta, wanted)

    def write_others(folder: Path) -> list[str]:
        return write_side_files(folder, Path(out), original, ours, plan, wanted, tokenizer_folder)

    shards, notes = write_checkpoint(out, plan.targets, written, weights.load, max_shard_size, progress, write_others)
    return ConversionResult(
        folder=Path(out),
        num_source_tensors=len(weights.meta),
        num_tensors=len(written),
        num_parameters=sum(tensor.numel() for tensor in written.values()),
        num_bytes=sum(tensor.nbytes for tensor in written.values()),
        shards=shards,
        dtype=stated_dtype,
        image_mode=ours.image_aspect_ratio,
        dropped=tuple(sorted(plan.dropped)),
        skipped=original.encoder.skipped if original.encoder else (),
        notes=notes,
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
    config_file = folder / CONFIG_NAME if config is None else Path(config)
    has_config = config is not None or config_file.is_file()
    fields = read_original_config(config_file) if has_config else {}
    weights = Weights(weight_files(path))
    encoder = add_vision_encoder(weights, vision_encoder) if vision_encoder is not None else None
    tower = folder / VISION_CONFIG_NAME if vision_config is None else Path(vision_config)
    names = (PREPROCESSOR_NAME, GENERATION_NAME)
    return Original(
        folder=folder,
        weights=weights,
        config=fields,
        side_files={name: read_json_if_there(folder / name) for name in names},
        vision_config=read_json(tower) if vision_config is not None or tower.is_file() else None,
        encoder=encoder,
    )


def main_dtype(tensors: Mapping[str, torch.Tensor]) -> str:
    """Names the dtype that most numbers have, which a config states."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return str(max(counts, key=lambda found: counts[found], default=torch.float32)).removeprefix("torch.")
