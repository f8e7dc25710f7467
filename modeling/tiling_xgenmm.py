"""Any-resolution geometry: grids, tile boxes, the strip order, the letterbox mask, token counts.

Image processor, processor and model all use this module; nothing in it touches pixels or features.

Shapes: num_images images become num_tiles tiles of num_patches = side * side patches each. Pixel sizes are
(height, width) except the grids, which are (width, height) in the order that decides ties.

Source: BLIP-3 report, section 2 (any-resolution encoding), and the released inference code.
"""

import math
from typing import Any, NamedTuple

import torch


ASPECT_RATIO_MODES = ("anyres", "none", "pad")
# the released grids in tiles, as (columns, rows), in the order that decides ties
DEFAULT_GRID_SHAPES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


class TileLayout(NamedTuple):
    """Where the patches of the sampled chunks come from, (num_tiles, num_patches) each."""

    source: torch.Tensor  # index into the flat (num_tiles * num_patches) features
    visible: torch.Tensor  # False on letterbox patches


def default_grids(tile_size: int) -> list[list[int]]:
    """Returns the released models' grids for tiles of a given side."""
    return [[columns * tile_size, rows * tile_size] for columns, rows in DEFAULT_GRID_SHAPES]


def checked_mode(mode: Any) -> str:
    """Returns the mode, or raises a ValueError if it is not an aspect-ratio mode."""
    if not isinstance(mode, str) or mode not in ASPECT_RATIO_MODES:
        raise ValueError(f"image_aspect_ratio is {mode!r}; it must be one of {', '.join(ASPECT_RATIO_MODES)}.")
    return mode


def checked_grids(grids: Any, tile_size: int, mode: str = "anyres") -> list[list[int]]:
    """Returns grids as lists, or raises a ValueError if one is not (width, height) in multiples of `tile_size`."""
    is_list = isinstance(grids, (list, tuple)) and all(isinstance(grid, (list, tuple)) for grid in grids)
    if not is_list or any(type(value) is not int for grid in grids for value in grid):
        raise ValueError(f"anyres_grids is {repr(grids)[:80]}; give a list of (width, height) in pixels.")
    if mode == "anyres" and not grids:
        raise ValueError('anyres_grids is empty; give at least one (width, height), or set image_aspect_ratio="none".')
    for grid in grids if mode == "anyres" else ():
        if len(grid) != 2 or any(value <= 0 or value % tile_size for value in grid):
            raise ValueError(
                f"anyres_grids holds {list(grid)}; every grid must be (width, height) in multiples of the tile size, "
                f"{tile_size} pixels."
            )
    return [list(grid) for grid in grids]


def select_grids(image_sizes: torch.Tensor, anyres_grids: list[list[int]]) -> torch.Tensor:
    """Chooses the grid resolution of every image.

    The largest effective resolution wins, ties go to the least waste, then to the first grid.

    Args:
        image_sizes: Image sizes as (height, width), (num_images, 2), integer.
        anyres_grids: Grids as (width, height) in pixels.

    Returns:
        The chosen grids as (width, height) in pixels, (num_images, 2).
    """
    grids = torch.tensor(anyres_grids, dtype=torch.int64, device=image_sizes.device)
    # the original computes in Python floats; MPS has no float64
    device = "cpu" if image_sizes.device.type == "mps" else image_sizes.device
    height, width = image_sizes.to(device, torch.float64).unsqueeze(1).unbind(-1)
    grid_width, grid_height = grids.to(device, torch.float64).unbind(-1)
    scale = torch.minimum(grid_width / width, grid_height / height)
    scaled = (width * scale).to(torch.int64) * (height * scale).to(torch.int64)
    effective = torch.minimum(scaled, (width * height).to(torch.int64))
    waste = (grid_width * grid_height).to(torch.int64) - effective
    best = effective.amax(dim=1, keepdim=True)
    chosen = waste.masked_fill(effective != best, torch.iinfo(torch.int64).max).argmin(dim=1)
    return grids[chosen.to(grids.device)]


def count_tiles(image_sizes: torch.Tensor, anyres_grids: list[list[int]], tile_size: int) -> torch.Tensor:
    """Counts the tiles of every image in any-resolution mode, (num_images,): the overview and the grid's."""
    return 1 + (select_grids(image_sizes, anyres_grids) // tile_size).prod(dim=1)


def count_image_tokens(num_tiles: int, num_latents: int, patch_sampling: bool = True) -> int:
    """Counts the tokens that an image of `num_tiles` tiles takes in the prompt."""
    return num_tiles * num_latents if patch_sampling else num_latents


def fit_into_grid(height: int, width: int, grid_width: int, grid_height: int) -> tuple[int, int, int, int]:
    """Computes where an image lies on its grid's black canvas: resized to fit, centred.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        grid_width: Width of the canvas in pixels.
        grid_height: Height of the canvas in pixels.

    Returns:
        (new height, new width, top, left) in pixels.
    """
    scale_width, scale_height = grid_width / width, grid_height / height
    if scale_width < scale_height:
        new_width, new_height = grid_width, min(math.ceil(height * scale_width), grid_height)
    else:
        new_width, new_height = min(math.ceil(width * scale_height), grid_width), grid_height
    return new_height, new_width, (grid_height - new_height) // 2, (grid_width - new_width) // 2


def centre_in_square(height: int, width: int) -> tuple[int, int, int]:
    """Returns (side of the canvas, top, left) in pixels of an image on the square canvas of the mode `pad`."""
    side = max(height, width)
    return side, (side - height) // 2, (side - width) // 2


def tile_layout(
    image_sizes: torch.Tensor, image_num_tiles: torch.Tensor, num_tiles: int, grids: torch.Tensor, side: int
) -> TileLayout:
    """Computes the strip order and the letterbox mask of all tiles at once.

    The original merges the feature maps of an image's grid tiles into one (rows * side, cols * side) map and reshapes
    that row-major map into rows * cols chunks: a chunk is a horizontal strip of the merged map, not a tile. The
    released weights were trained with this order. The overview (tile 0) stays as it is and is never masked.

    Args:
        image_sizes: Image sizes as (height, width), (num_images, 2).
        image_num_tiles: Tiles per image, (num_images,); 1 means the overview alone.
        num_tiles: Sum of `image_num_tiles`.
        grids: Grid of every image as (cols, rows) in tiles, (num_images, 2).
        side: Patches along one side of a tile.

    Returns:
        Source index and mask of every patch of every chunk.
    """
    device = image_num_tiles.device
    num_patches = side * side
    ends = image_num_tiles.cumsum(0)
    tile = torch.arange(num_tiles, device=device)
    image = torch.searchsorted(ends, tile, right=True)
    first = (ends - image_num_tiles)[image]
    local = tile - first  # 0 is the overview
    patch = torch.arange(num_patches, device=device)
    cols, rows = grids[image].unsqueeze(-1).unbind(1)  # (num_tiles, 1) each

    position = (local - 1).unsqueeze(-1) * num_patches + patch  # in the merged map
    y, x = position // (cols * side), position % (cols * side)
    grid_tile = first.unsqueeze(-1) + 1 + (y // side) * cols + x // side
    source = grid_tile * num_patches + (y % side) * side + x % side

    overview = (local == 0).unsqueeze(-1)
    source = torch.where(overview, tile.unsqueeze(-1) * num_patches + patch, source)
    top, left = letterbox_margins(image_sizes, grids * side)[image].unsqueeze(-1).unbind(1)
    inside = (y >= top) & (y < rows * side - top) & (x >= left) & (x < cols * side - left)
    return TileLayout(source, overview | inside)


def letterbox_margins(image_sizes: torch.Tensor, map_sizes: torch.Tensor) -> torch.Tensor:
    """Computes the letterbox above and left of images in their merged maps, (num_images, 2) as (rows, columns).

    As much lies below and to the right. `image_sizes` are (height, width), `map_sizes` (width, height) in patches.
    """
    device = "cpu" if image_sizes.device.type == "mps" else image_sizes.device
    height, width = image_sizes.to(device, torch.float64).unbind(-1)
    map_width, map_height = map_sizes.to(device, torch.float64).unbind(-1)
    wide = width / height > map_width / map_height
    new_height = (height * (map_width / width)).to(torch.int64)
    new_width = (width * (map_height / height)).to(torch.int64)
    rows = torch.where(wide, (map_height.to(torch.int64) - new_height) // 2, 0)
    columns = torch.where(wide, 0, (map_width.to(torch.int64) - new_width) // 2)
    return torch.stack([rows, columns], dim=-1).to(image_sizes.device)
