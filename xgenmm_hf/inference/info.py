"""What a checkpoint is, without loading its weights: sizes, dtypes, image mode, what an image costs."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from xgenmm_hf import XGenMMConfig
from xgenmm_hf.conversion.files import read_json, read_json_if_there
from xgenmm_hf.conversion.model_card import count_parameters
from xgenmm_hf.conversion.original_config import ImageMode, decide_image_mode
from xgenmm_hf.conversion.sources import weight_files
from xgenmm_hf.conversion.verify import expected_tensors, meta_model
from xgenmm_hf.inference.loading import pick_device
from xgenmm_hf.inference.precision import choose_dtype
from xgenmm_hf.inference.provenance import name_device, provenance
from xgenmm_hf.inference.source import is_local, resolve_model
from xgenmm_hf.modeling.tiling_xgenmm import checked_grids, count_image_tokens, count_tiles, default_grids


def describe(
    model: str | os.PathLike[str], image_size: tuple[int, int] | None = None, with_provenance: bool = False
) -> dict[str, Any]:
    """Describes a checkpoint from its config and the headers of its weight files; provenance reads them whole."""
    source = resolve_model(model, ours=False)
    config = XGenMMConfig.from_pretrained(source)
    mode: ImageMode | None = ImageMode(config.image_aspect_ratio, config.anyres_grids)
    if config.original_schema and is_local(source):
        mode = original_image_mode(Path(source), config.tile_size)
    device = pick_device()
    dtype, computes_in = choose_dtype(config.dtype or torch.float32, config.text_config, device)
    facts = {
        "model": source,
        "layout": "original" if config.original_schema else "xgenmm-hf",
        "architecture": describe_architecture(config),
        "parameters": count_parameters(expected_tensors(config)),
        "weights": describe_weights(Path(source)) if is_local(source) else None,
        "images": describe_images(config, mode, image_size),
        "context": config.text_config.max_position_embeddings,
        "computes_in": computes_in,
    }
    if with_provenance:
        chosen = {"dtype": str(dtype).removeprefix("torch."), "device": name_device(device)}
        facts["provenance"] = provenance(source, meta_model(config), **chosen)
    return facts


def describe_architecture(config: XGenMMConfig) -> dict[str, dict[str, Any]]:
    """Returns type, depth and width of the three parts of a model."""
    vision, sampler, text = config.vision_config, config.resampler_config, config.text_config
    return {
        "vision tower": {
            "type": vision.model_type,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "patch": vision.patch_size,
        },
        "resampler": {"layers": sampler.depth, "width": sampler.hidden_size, "latents": sampler.num_latents},
        "language model": {
            "type": text.model_type,
            "layers": text.num_hidden_layers,
            "width": text.hidden_size,
            "vocabulary": text.vocab_size,
        },
    }


def describe_images(
    config: XGenMMConfig, mode: ImageMode | None, image_size: tuple[int, int] | None
) -> dict[str, Any]:
    """Describes how images are cut and what they cost."""
    grids = (mode.grids or []) if mode is not None and mode.aspect_ratio == "anyres" else []
    latents = config.resampler_config.num_latents
    facts: dict[str, Any] = {
        "mode": None if mode is None else mode.aspect_ratio,
        "tile": config.tile_size,
        "grids": grids or None,
        "sampled": "tile by tile" if config.anyres_patch_sampling else "all tiles together",
        "tokens_per_tile": latents,
    }
    if image_size is not None and mode is not None:
        tiles = int(count_tiles(torch.tensor([image_size]), grids, config.tile_size)) if grids else 1
        tokens = count_image_tokens(tiles, latents, config.anyres_patch_sampling)
        facts["image"] = {"height": image_size[0], "width": image_size[1], "tiles": tiles, "tokens": tokens}
    return facts


def original_image_mode(folder: Path, tile_size: int) -> ImageMode | None:
    """Returns the image mode that an original folder states, or None where conversion would have to ask."""
    try:
        preprocessor = read_json_if_there(folder / "preprocessor_config.json")
        mode, grids = decide_image_mode(read_json(folder / "config.json"), preprocessor, None)
        return ImageMode(mode, checked_grids(default_grids(tile_size) if grids is None else grids, tile_size, mode))
    except ValueError:
        return None


def describe_weights(folder: Path) -> dict[str, Any]:
    """Reads the headers of a folder's weight files."""
    try:
        files = weight_files(folder)
    except FileNotFoundError as error:
        return {"problem": str(error)}
    tensors = [tensor for file in files for tensor in file.entries().values()]
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    return {"files": len(files), "bytes": sum(file.path.stat().st_size for file in files), "dtypes": dict(dtypes)}
