"""What a checkpoint is, without loading its weights: sizes, dtypes, image mode, what a picture costs."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration
from xgenmm_hf.inference.source import is_local, is_original_layout, read_config, resolve_model
from xgenmm_hf.modeling.tiling_xgenmm import count_image_tokens, count_tiles


INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PARTS = {
    "vision tower": "model.vision_tower.",
    "resampler": "model.resampler.",
    "language model": "model.language_model.",
    "head": "lm_head.",
}


def describe(model: str | os.PathLike[str], image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Describes a checkpoint from its config and the headers of its weight files.

    Args:
        model: Checkpoint folder (ours, or an original one with its config), or a Hub repository of the form
            ``organisation/name``, of which only the config is fetched.
        image_size: A picture's (height, width) in pixels whose cost is wanted.

    Returns:
        Plain values, ready for JSON: ``layout``, ``architecture``, ``parameters`` by part, ``weights`` (files, bytes
        and dtypes; None where there are none here), ``images`` and ``context``.

    Raises:
        ValueError: If there is no such checkpoint or its files are damaged.
    """
    source = resolve_model(model, weights=False)
    config = XGenMMConfig.from_pretrained(source)
    original = is_local(source) and is_original_layout(read_config(Path(source)))
    return {
        "model": source,
        "layout": "original" if original else "xgenmm-hf",
        "architecture": describe_architecture(config),
        "parameters": count_parameters(config),
        "weights": describe_weights(Path(source)) if is_local(source) else None,
        "images": describe_images(config, image_size),
        "context": config.text_config.max_position_embeddings,
    }


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


def count_parameters(config: XGenMMConfig) -> dict[str, int]:
    """Counts parameters by part on the meta device, so nothing is allocated.

    Args:
        config: Config of the model.

    Returns:
        Parameters a part, and ``total``.
    """
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(config)
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        for part, prefix in PARTS.items():
            if name.startswith(prefix):
                counts[part] += parameter.numel()
    return {**counts, "total": sum(parameter.numel() for parameter in model.parameters())}


def describe_images(config: XGenMMConfig, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """Returns the image mode and, for a given (height, width), the tiles and tokens of such a picture."""
    anyres = config.image_aspect_ratio == "anyres"
    facts: dict[str, Any] = {
        "mode": config.image_aspect_ratio,
        "tile": config.tile_size,
        "grids": config.anyres_grids if anyres else None,
        "sampled": "tile by tile" if config.anyres_patch_sampling else "all tiles together",
        "tokens_per_tile": config.resampler_config.num_latents,
    }
    if image_size is not None:
        tiles = int(count_tiles(torch.tensor([image_size]), config.anyres_grids, config.tile_size)) if anyres else 1
        tokens = count_image_tokens(tiles, config.resampler_config.num_latents, config.anyres_patch_sampling)
        facts["picture"] = {"height": image_size[0], "width": image_size[1], "tiles": tiles, "tokens": tokens}
    return facts


def describe_weights(folder: Path) -> dict[str, Any] | None:
    """Reads the headers of a folder's safetensors files.

    Args:
        folder: A checkpoint folder.

    Returns:
        ``files``, ``bytes`` and ``dtypes`` (tensors of each dtype), or None where the folder has no safetensors.

    Raises:
        ValueError: If the index is broken, or a file is missing or damaged.
    """
    files = weight_files(folder)
    if not files:
        return None
    dtypes: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                dtypes.update(tensors.get_slice(name).get_dtype() for name in tensors.keys())  # noqa: SIM118
        except Exception as error:
            raise ValueError(f"{file} is missing or damaged ({error}): copy it again.") from None
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files), "dtypes": dict(dtypes)}


def weight_files(folder: Path) -> list[Path]:
    """Lists the safetensors files that a folder's index names, or its single file.

    Args:
        folder: A checkpoint folder.

    Returns:
        The files, sorted; empty where the folder has neither.

    Raises:
        ValueError: If the index cannot be read or names a file outside the folder.
    """
    index = folder / INDEX
    if not index.is_file():
        return [folder / SINGLE] if (folder / SINGLE).is_file() else []
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weight files ({error}): copy it again.") from None
    if outside:
        raise ValueError(f"{index} names {outside[0]!r}, which is not a file of its own folder: do not trust it.")
    return sorted(folder / name for name in names)
