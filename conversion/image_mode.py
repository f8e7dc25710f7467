"""Which mode a checkpoint runs in: any-resolution tiles, or one tile an image.

The released base model says any-resolution in its config, but has no grids and its code never tiles. Nothing is
guessed here: where the files do not decide, the user does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xgenmm_hf.modeling.tiling_xgenmm import default_grids


ANYRES = "anyres"
ONE_TILE = ("none", "pad")
MODES = (ANYRES, *ONE_TILE)


@dataclass(frozen=True)
class ImageMode:
    """How a checkpoint cuts images: one of `MODES`, and for any-resolution the grids as (width, height) in pixels."""

    aspect_ratio: str
    grids: list[list[int]] | None = None


def decide_image_mode(
    original: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, asked: str | None, tile_size: int
) -> ImageMode:
    """Decides the image mode of an original checkpoint.

    In this order: what the user asks for; `grids` in `preprocessor_config.json` (a list: any-resolution, null: one
    tile); `anyres_grids` or a one-tile `image_aspect_ratio` in `vision_encoder_config`; the
    first release's model type.
    """
    encoder = original.get("vision_encoder_config") or {}
    preprocessor = preprocessor or {}
    stated = preprocessor.get("grids") or encoder.get("anyres_grids")
    if asked is not None:
        if asked not in MODES:
            raise ValueError(f"The image mode is {asked!r}; expected one of {', '.join(MODES)}.")
        return _anyres(stated or default_grids(tile_size)) if asked == ANYRES else ImageMode(asked)
    if "grids" in preprocessor:
        if preprocessor["grids"]:
            return _anyres(preprocessor["grids"])
        return ImageMode("pad" if encoder.get("image_aspect_ratio") == "pad" else "none")
    if encoder.get("image_aspect_ratio") in ONE_TILE:
        return ImageMode(encoder["image_aspect_ratio"])
    if encoder.get("anyres_grids"):
        return _anyres(encoder["anyres_grids"])
    if original.get("model_type") == "blip_3":  # the first release's grids are built into its code
        return _anyres(default_grids(tile_size))
    raise ValueError(
        "Neither preprocessor_config.json nor vision_encoder_config says whether this checkpoint tiles its images; "
        "pass --image-mode anyres (the instruct models) or --image-mode none (the base model)."
    )


def _anyres(grids: Any) -> ImageMode:
    pairs = isinstance(grids, list) and all(isinstance(grid, list) and len(grid) == 2 for grid in grids)
    if not pairs or not all(type(side) is int and side > 0 for grid in grids for side in grid):
        raise ValueError(f"The grids are {grids!r}; expected a list of [width, height] in pixels.")
    return ImageMode(ANYRES, [list(grid) for grid in grids])
