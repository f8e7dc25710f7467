"""Ours -> the original layout (a): a Hub snapshot folder that the original code reads.

A folder that `convert_checkpoint` wrote keeps the original's unused rows and configs in ``original/``, so that export
gives the same bits. Without them (a model saved after training), unused rows are zeros.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xgenmm_hf.conversion import key_map
from xgenmm_hf.conversion.convert import DEFAULT_SHARD_SIZE, main_dtype
from xgenmm_hf.conversion.files import check_output_folder, read_json, read_json_if_there, write_json
from xgenmm_hf.conversion.original_config import (
    CONFIG_NAME,
    GENERATION_NAME,
    PREPROCESSOR_NAME,
    VISION_CONFIG_NAME,
    checked_config,
    first_added_id,
    original_config,
    original_preprocessor,
)
from xgenmm_hf.conversion.side_files import KEPT_FOLDER, PADDING_NAME, SENTENCEPIECE_NAME
from xgenmm_hf.conversion.sources import WeightFile, Weights, locate, weight_files
from xgenmm_hf.conversion.tensors import Shape, assemble, describe, plan_export
from xgenmm_hf.conversion.tokenizer import export_tokenizer
from xgenmm_hf.conversion.verify import check_same, expected_tensors
from xgenmm_hf.conversion.writer import Progress, write_checkpoint
from xgenmm_hf.modeling.configuration_xgenmm import DFN5B_VIT_H_378, XGenMMConfig
from xgenmm_hf.modeling.tokenization_xgenmm import XGenMMTokenizer


# The original pads its old matrices to a multiple of this many rows (32012 -> 32064).
_ROWS_MULTIPLE = 64
_TOWER_FORMATS = {"siglip_vision_model": "transformers", "clip_vision_model": "openclip"}


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        folder: The exported checkpoint.
        num_tensors: Tensors written.
        num_bytes: Their size.
        shards: Names of the weight files.
        padding: Where the unused rows came from: `"kept"` or `"zeros"`.
        notes: Sentences a user should read.
    """

    folder: Path
    num_tensors: int
    num_bytes: int
    shards: tuple[str, ...]
    padding: str
    notes: tuple[str, ...] = ()


def export_state_dict(
    tensors: Mapping[str, torch.Tensor], config: XGenMMConfig, padding: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Turns our tensors back into the original's, in memory.

    Args:
        tensors: Our tensors by name.
        config: The model's config.
        padding: Unused rows to put below the old embedding and head, by the original's name without prefix.
            Default: zeros, up to the next multiple of 64 rows.

    Returns:
        The original's tensors by name, with the prefix `vlm.`.

    Raises:
        ValueError: If the model has no place in the original layout.
    """
    first = first_added_id(config)
    rows = zero_padding(tensors.__getitem__, first) if padding is None else padding
    plan = plan_export(_shapes(tensors), _shapes(rows), first, _tower_format(config))
    sources = {**tensors, **rows}
    return {target.name: assemble(target, sources.__getitem__) for target in plan.targets}


def export_checkpoint(
    model: str | Path,
    out: str | Path,
    *,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes a checkpoint of ours in the original layout.

    Args:
        model: A folder or Hub repo id in this package's layout.
        out: The folder to create; must be new or empty.
        max_shard_size: Largest weight file, such as `"5GB"`.
        progress: Called with a file's name, bytes written and bytes to write.

    Returns:
        What was written.

    Raises:
        ValueError: If the model is broken or has no place in the original layout.
        OSError: If something is missing or `out` cannot be written.
    """
    check_output_folder(out)
    source = locate(model)
    config = read_our_config(source)
    weights = Weights(weight_files(source))
    expected = expected_tensors(config)
    check_same(weights.shapes, expected, f"The weights in {source} do not fit its config")
    first = first_added_id(config)
    rows, origin = _padding(source, weights, first)
    plan = plan_export(expected, _shapes(rows), first, _tower_format(config))
    written = describe(plan.targets, {**weights.meta, **{name: tensor.to("meta") for name, tensor in rows.items()}})

    def load(name: str) -> torch.Tensor:
        return rows[name] if name in rows else weights.load(name)

    def write_others(folder: Path) -> list[str]:
        num_rows = first + max((len(tensor) for tensor in rows.values()), default=0)
        return _write_original_files(folder, source, config, num_rows, main_dtype(weights.meta))

    shards, notes = write_checkpoint(out, plan.targets, written, load, max_shard_size, progress, write_others)
    size = sum(tensor.nbytes for tensor in written.values())
    return ExportResult(Path(out), len(written), size, shards, origin, notes)


def read_our_config(source: Path) -> XGenMMConfig:
    """Reads the config of a checkpoint in our layout."""
    path = source / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{source} holds no {CONFIG_NAME}; expected a folder in this package's layout.")
    fields = read_json(path)
    if fields.get("model_type") != "xgenmm" or "resampler_config" not in fields:
        raise ValueError(f"{path} is not of this package's layout; export takes what `xgenmm convert` wrote.")
    return checked_config(fields, str(path))


def zero_padding(load: Any, first: int) -> dict[str, torch.Tensor]:
    """Builds unused rows of zeros for the old matrices."""
    count = -first % _ROWS_MULTIPLE
    tensors = {old: load(ours) for ours, (old, _) in key_map.FOLDED.items()} if count else {}
    return {old: tensor.new_zeros((count, *tensor.shape[1:])) for old, tensor in tensors.items()}


def _padding(source: Path, weights: Weights, first: int) -> tuple[dict[str, torch.Tensor], str]:
    """Returns the rows that conversion kept if they fit the model, else zeros."""
    path = source / KEPT_FOLDER / PADDING_NAME
    if not path.is_file():
        return zero_padding(weights.load, first), "zeros"
    file = WeightFile(path)
    rows = {name: file.load(name) for name in file.entries()}
    for ours, (old, _) in key_map.FOLDED.items():
        model = weights.meta[ours]
        if old not in rows or rows[old].shape[1:] != model.shape[1:]:
            raise ValueError(f"{path} does not belong to this model; remove the folder {KEPT_FOLDER} to export zeros.")
        rows[old] = rows[old].to(model.dtype)
    return rows, "kept"


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _tower_format(config: XGenMMConfig) -> str:
    kind = config.vision_config.model_type
    if kind not in _TOWER_FORMATS:
        raise ValueError(
            f"The original layout has no vision tower of type {kind!r}; expected {', '.join(_TOWER_FORMATS)}."
        )
    return _TOWER_FORMATS[kind]


def _write_original_files(folder: Path, source: Path, config: XGenMMConfig, rows: int, dtype: str) -> list[str]:
    """Writes config, tower, preprocessor, generation config and tokenizer in the original's form; returns notes."""
    names = (CONFIG_NAME, PREPROCESSOR_NAME, GENERATION_NAME)
    kept, ours = (
        {name: read_json_if_there(place / name) for name in names} for place in (source / KEPT_FOLDER, source)
    )
    write_json(folder / CONFIG_NAME, original_config(config, kept[CONFIG_NAME], rows, dtype))
    tower = _stated_tower(config)
    if tower is not None:
        write_json(folder / VISION_CONFIG_NAME, tower)
    preprocessor = {**kept[PREPROCESSOR_NAME], **original_preprocessor(config, ours[PREPROCESSOR_NAME])}
    write_json(folder / PREPROCESSOR_NAME, preprocessor)
    ends = ours[GENERATION_NAME].get("eos_token_id")
    one_end = {"eos_token_id": ends[-1]} if isinstance(ends, list) and ends else {}  # as the original has it
    generation = kept[GENERATION_NAME] or {**ours[GENERATION_NAME], **one_end}
    if generation:
        write_json(folder / GENERATION_NAME, generation)
    if not (source / "tokenizer.json").is_file():
        return []
    export_tokenizer(XGenMMTokenizer.from_pretrained(source), folder)
    sentencepiece = source / KEPT_FOLDER / SENTENCEPIECE_NAME
    if not sentencepiece.is_file():
        return ["tokenizer.model, which the original's slow tokenizer reads, is not here: copy the release's."]
    shutil.copyfile(sentencepiece, folder / SENTENCEPIECE_NAME)
    return []


def _stated_tower(config: XGenMMConfig) -> dict[str, Any] | None:
    """Returns the tower's config if it is not the release's, which is the original layout's default."""
    first = config.resampler_config.text_conditioned
    released = XGenMMConfig(vision_config=DFN5B_VIT_H_378 if first else None).vision_config
    ours = config.vision_config
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
              "patch_size", "num_channels", "hidden_act", "layer_norm_eps", "projection_dim")  # fmt: skip
    stated = {name: getattr(ours, name) for name in fields if hasattr(ours, name)}
    same = ours.model_type == released.model_type and all(getattr(released, n, None) == v for n, v in stated.items())
    return None if same else {"model_type": ours.model_type, **stated}
