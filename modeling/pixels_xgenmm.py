"""Images -> tiles in torch, with gradients: the image processor's steps on float tensors of any device.

Shapes: an image is (3, height, width) in [0, 1]. Pillow rounds to 256 levels after each pass; values here are clipped,
but not rounded. docs/research.md states how far the tiles are from Pillow's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch.nn.functional import interpolate

from .tiling_xgenmm import centre_in_square, fit_into_grid


def checked_images(images: Any) -> list[torch.Tensor]:
    """Returns images, each (3, height, width) in [0, 1], of a list or of a tensor with or without a batch axis."""
    listed = [images] if isinstance(images, torch.Tensor) and images.dim() == 3 else list(images)
    if not listed:
        raise ValueError("images is empty; pass at least one tensor of shape (3, height, width).")
    for index, image in enumerate(listed):
        shape = tuple(getattr(image, "shape", ()))
        if len(shape) != 3 or shape[0] != 3 or 0 in shape or not torch.is_floating_point(image):
            raise ValueError(
                f"images[{index}] is a {type(image).__name__} of shape {shape} and type "
                f"{getattr(image, 'dtype', None)}; pass floating-point tensors of shape (3, height, width), or call "
                "the image processor itself, which takes files and PIL images."
            )
        low, high = image.detach().aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images[{index}] has values from {low:.4g} to {high:.4g}; they must be in [0, 1]: divide by 255 or "
                "clamp them."
            )
    return listed


def cut_image(
    image: torch.Tensor, mode: str, grid: list[int] | None, side: int, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Cuts an image into normalised tiles, (num_tiles, 3, side, side), in float32 (float64 images in float64)."""
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    height, width = image.shape[1:]
    whole = image
    if mode == "pad":
        length, top, left = centre_in_square(height, width)
        whole = lay(image, length, length, top, left, [int(255 * value) / 255 for value in mean])
    tiles = resize(whole, side, side)[None]
    if grid is not None:
        new_height, new_width, top, left = fit_into_grid(height, width, *grid)
        canvas = lay(resize(image, new_height, new_width), grid[1], grid[0], top, left, [0.0, 0.0, 0.0])
        cells = rearrange(canvas, "c (rows h) (columns w) -> (rows columns) c h w", h=side, w=side)
        tiles = torch.cat([tiles, cells])
    return (tiles - tiles.new_tensor(mean).view(3, 1, 1)) / tiles.new_tensor(std).view(3, 1, 1)


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes by antialiased bicubic, one axis after the other in Pillow 13's order, and clips after each."""
    before = image.shape[-2:]
    first = (before[0], width)
    if before[0] - height > max(0, 2 * (before[1] - width)):
        first = (height, before[1])
    for size in (first, (height, width)):
        if size != tuple(image.shape[-2:]):
            image = interpolate(image[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
    return image


def lay(image: torch.Tensor, height: int, width: int, top: int, left: int, color: list[float]) -> torch.Tensor:
    """Lays an image on a canvas of one color."""
    canvas = image.new_tensor(color).view(3, 1, 1).repeat(1, height, width)
    canvas[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return canvas
