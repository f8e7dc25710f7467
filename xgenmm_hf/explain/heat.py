"""Attention over patches -> heat over the pixels of an image.

Patches come in the order in which the resampler reads them: a chunk of an any-resolution image is a horizontal strip
of the merged feature map, not a tile. The model's own `arrange_chunks` says where each one comes from, so the strip
order is written down in one place only.

Shapes: an image of height x width pixels in num_tiles tiles of side * side patches. Tile 0 shows the whole image,
the others are its grid's, row by row.
"""

from dataclasses import dataclass

import numpy as np
import torch

from xgenmm_hf.modeling.chunking_xgenmm import arrange_chunks
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.tiling_xgenmm import fit_into_grid, select_grids


@dataclass(frozen=True)
class Cut:
    """How an image was cut into tiles.

    Attributes:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        mode: `image_aspect_ratio`: `"anyres"`, `"none"` or `"pad"`.
        tile_size: Side of a tile in pixels.
        patch_size: Side of a patch in pixels of a tile.
        side: Patches along one side of a tile.
        columns: Tiles along the grid's width; 0 without a grid.
        rows: Tiles along the grid's height; 0 without a grid.
    """

    height: int
    width: int
    mode: str
    tile_size: int
    patch_size: int
    side: int
    columns: int = 0
    rows: int = 0

    @property
    def num_tiles(self) -> int:
        """Tiles of the image, the overview among them."""
        return 1 + self.columns * self.rows

    def patch_edges(self, tile: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns where a tile's rows and columns of patches begin and end in the image.

        Args:
            tile: Index of the tile; 0 is the overview.

        Returns:
            Rows and columns, (side, 2) each, in pixels of the image. They may lie outside of it, on padding. Where
            patches do not fill their tile (27 * 14 of 384 pixels), its last pixels belong to none.
        """
        starts = np.arange(self.side) * self.patch_size
        cells = np.stack([starts, starts + self.patch_size], axis=1).astype(np.float64)
        if tile > 0:
            row, column = divmod(tile - 1, self.columns)
            canvas = (self.height, self.width, self.columns * self.tile_size, self.rows * self.tile_size)
            new_height, new_width, top, left = fit_into_grid(*canvas)
            rows = (cells + row * self.tile_size - top) * self.height / new_height
            return rows, (cells + column * self.tile_size - left) * self.width / new_width
        if self.mode == "pad":
            longest = max(self.height, self.width)
            cells = cells * longest / self.tile_size
            return cells - (longest - self.height) // 2, cells - (longest - self.width) // 2
        return cells * self.height / self.tile_size, cells * self.width / self.tile_size


def cut_of(config: XGenMMConfig, height: int, width: int, num_tiles: int) -> Cut:
    """Works out how the model's image processor cuts an image."""
    columns = rows = 0
    if config.image_aspect_ratio == "anyres" and num_tiles > 1:
        columns, rows = (
            select_grids(torch.tensor([[height, width]]), config.anyres_grids)[0] // config.tile_size
        ).tolist()
    return Cut(
        height,
        width,
        config.image_aspect_ratio,
        config.tile_size,
        config.vision_config.patch_size,
        config.patches_per_side,
        columns,
        rows,
    )


def heat_of_patches(
    config: XGenMMConfig,
    attention: torch.Tensor,
    weights: torch.Tensor,
    image_sizes: torch.Tensor,
    image_num_tiles: torch.Tensor,
) -> torch.Tensor:
    """Adds up what an image's tokens looked at, and puts it back from the resampler's order to tiles.

    Args:
        config: The model's config.
        attention: How much each token's latent looked at each patch of its chunk, (num_chunks, num_latents, patches
            of a chunk).
        weights: How much each token counts, (num_chunks, num_latents).
        image_sizes: The image's size as (height, width), (1, 2).
        image_num_tiles: The image's number of tiles, (1,).

    Returns:
        Heat, (num_tiles, side, side), summing to one unless all of it is zero.

    Raises:
        ValueError: If attention and image do not fit each other.
    """
    num_tiles, side = int(image_num_tiles.sum()), config.patches_per_side
    places = torch.arange(num_tiles * side**2, dtype=torch.float64).view(num_tiles, side**2, 1)
    chunks, visible = arrange_chunks(config, places, image_sizes.cpu(), image_num_tiles.cpu())
    source = chunks.squeeze(-1).long()  # (num_chunks, patches of a chunk)
    if attention.shape != (source.shape[0], weights.shape[1], source.shape[1]):
        raise ValueError(
            f"attention is {tuple(attention.shape)}, but this image is sampled in {source.shape[0]} chunks of "
            f"{source.shape[1]} patches; pass the attention of one image's own forward pass."
        )
    seen = (weights.double().cpu().unsqueeze(-1) * attention.double().cpu()).sum(1)
    if visible is not None:
        seen = seen * visible
    heat = torch.zeros(num_tiles * side**2, dtype=torch.float64).index_add_(0, source.flatten(), seen.flatten())
    total = heat.sum()
    return (heat / total if total > 0 else heat).view(num_tiles, side, side)


def heat_of_pixels(heat: np.ndarray, cut: Cut) -> tuple[np.ndarray, float]:
    """Spreads the heat of patches over the pixels that they show, overview and grid together.

    Args:
        heat: Heat of patches, (num_tiles, side, side), summing to one.
        cut: How the image was cut.

    Returns:
        Heat of pixels, (height, width), summing to one unless all of it is zero; and the share of the patches' heat
        that lies on padding and so outside of the image, in [0, 1].

    Raises:
        ValueError: If the heat is another image's.
    """
    if heat.shape != (cut.num_tiles, cut.side, cut.side):
        raise ValueError(
            f"heat is {heat.shape}, but the image is cut into {cut.num_tiles} tiles of {cut.side} x {cut.side} "
            "patches; pass heat and cut of the same image."
        )
    pixels = np.zeros((cut.height, cut.width))
    for tile, values in enumerate(heat):
        rows, columns = cut.patch_edges(tile)
        pixels += coverage(rows, cut.height).T @ values @ coverage(columns, cut.width)
    inside = pixels.sum()
    outside = max(0.0, 1.0 - float(inside / heat.sum())) if heat.sum() > 0 else 0.0
    return (pixels / inside if inside > 0 else pixels), outside


def coverage(edges: np.ndarray, length: int) -> np.ndarray:
    """Computes which part of each cell lies on each pixel, along one axis.

    Args:
        edges: Begin and end of each cell in pixels, (cells, 2).
        length: Pixels of the axis.

    Returns:
        Fractions of the cells, (cells, length); a cell that is partly outside sums to less than one.
    """
    pixel = np.arange(length)
    start, end = edges[:, :1], edges[:, 1:]
    return np.clip(np.minimum(end, pixel + 1) - np.maximum(start, pixel), 0, None) / (end - start)


def box_in_image(cut: Cut, rows: np.ndarray, columns: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the part of the image that rows and columns of patches show.

    Args:
        cut: How the image was cut.
        rows: Begin and end of rows of patches, (any number, 2), in pixels of the image.
        columns: The same of columns.

    Returns:
        (left, top, right, bottom) in whole pixels of the image.
    """
    left, right = np.clip([columns.min(), columns.max()], 0, cut.width).round().astype(int)
    top, bottom = np.clip([rows.min(), rows.max()], 0, cut.height).round().astype(int)
    return int(left), int(top), int(right), int(bottom)
