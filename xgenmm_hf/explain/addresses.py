"""Which pixels feed which patch, which patch which chunk, and which chunk which image token, from sizes alone.

The model's own `arrange_chunks` decides the order in which chunks read patches.

Shapes: num_images images in num_tiles tiles of side * side patches, flat in the order of the model's inputs; each of
num_chunks chunks gives num_latents tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from xgenmm_hf.modeling.chunking_xgenmm import arrange_chunks
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.tiling_xgenmm import centre_in_square, count_tiles, fit_into_grid, select_grids


@dataclass(frozen=True)
class ImageAddresses:
    """Where the image tokens of a batch come from. Indices count over all images together.

    Attributes:
        image_sizes: (height, width) of each image in pixels, (num_images, 2).
        token_chunk: Chunk of each image token, (num_tokens,).
        token_latent: Latent of each image token, (num_tokens,).
        token_image: Image of each image token, (num_tokens,).
        token_position: Row and position of each image token in the prompts, (num_tokens, 2); (0, 2) without prompts.
        chunk_image: Image of each chunk, (num_chunks,).
        chunk_kind: `"overview"`, `"strip"`, or `"image"` for a chunk that holds a whole image, for each chunk.
        chunk_patches: Patches of each chunk as indices into the flat patches, (num_chunks, patches of a chunk).
        chunk_visible: False where the latents must not see a patch, (num_chunks, patches of a chunk).
        tile_image: Image of each tile, (num_tiles,).
        tile_cell: Row and column of each tile in its image's grid, (num_tiles, 2); -1 for overviews.
        patch_box: (left, top, right, bottom) of each patch in its image's pixels, (num_tiles, side, side, 4); it
            may lie outside of the image. Pixels at the end of a tile (384 - 27 * 14) belong to no patch.
        patch_letterbox: True where a patch shows no pixel of the image, (num_tiles, side, side).

    Example:
        ```python
        >>> from xgenmm_hf import TINY_MODEL, XGenMMConfig, image_token_addresses
        >>> addresses = image_token_addresses([(64, 128)], XGenMMConfig.from_pretrained(TINY_MODEL))  # height, width
        >>> addresses.chunk_kind, addresses.token_chunk.shape
        (('overview', 'strip', 'strip'), torch.Size([48]))
        ```
    """

    image_sizes: torch.Tensor
    token_chunk: torch.Tensor
    token_latent: torch.Tensor
    token_image: torch.Tensor
    token_position: torch.Tensor
    chunk_image: torch.Tensor
    chunk_kind: tuple[str, ...]
    chunk_patches: torch.Tensor
    chunk_visible: torch.Tensor
    tile_image: torch.Tensor
    tile_cell: torch.Tensor
    patch_box: torch.Tensor
    patch_letterbox: torch.Tensor

    def box_of(self, boxes: torch.Tensor) -> tuple[int, int, int, int]:
        """Returns the part of the first image that some patches span.

        Args:
            boxes: Some of `patch_box`, (..., 4).

        Returns:
            (left, top, right, bottom) in whole pixels inside the image.
        """
        height, width = self.image_sizes[0].tolist()
        boxes = boxes.reshape(-1, 4)
        corners = [*boxes[:, :2].amin(0).tolist(), *boxes[:, 2:].amax(0).tolist()]
        left, top, right, bottom = (
            round(min(max(value, 0), most)) for value, most in zip(corners, (width, height) * 2, strict=True)
        )
        return left, top, right, bottom


def image_token_addresses(
    image_sizes: torch.Tensor | Sequence[Sequence[int]],
    config: XGenMMConfig,
    input_ids: torch.Tensor | None = None,
    image_num_tiles: torch.Tensor | None = None,
) -> ImageAddresses:
    """Returns where every image token comes from, without weights or pixels.

    Args:
        image_sizes: Sizes of the images as (height, width) in pixels, (num_images, 2).
        config: The model's config.
        input_ids: Prompts of these images with every `<image>` expanded, (B, L), for `token_position`.
        image_num_tiles: Tiles per image, (num_images,); default: those that the config's image mode gives.

    Returns:
        The addresses of tokens, chunks, tiles and patches.

    Raises:
        ValueError: If the number of image tokens in the prompts differs from that of the images.
    """
    sizes = torch.as_tensor(image_sizes).cpu()
    anyres, num_patches = config.image_aspect_ratio == "anyres", config.patches_per_side**2
    if image_num_tiles is not None:
        num_tiles = image_num_tiles.cpu()
    elif anyres:
        num_tiles = count_tiles(sizes, config.anyres_grids, config.tile_size)
    else:
        num_tiles = torch.ones(len(sizes), dtype=torch.long)
    places = torch.arange(int(num_tiles.sum()) * num_patches, dtype=torch.float64).view(-1, num_patches, 1)
    chunks, visible = arrange_chunks(config, places, sizes, num_tiles)
    patches = chunks.squeeze(-1).long()
    tile_image = torch.arange(len(sizes)).repeat_interleave(num_tiles)
    by_tile = config.anyres_patch_sampling or not anyres
    chunk_image = tile_image if by_tile else torch.arange(len(sizes))
    token_chunk = torch.arange(len(patches)).repeat_interleave(config.resampler_config.num_latents)
    located = [patch_boxes(config, size, int(count)) for size, count in zip(sizes.tolist(), num_tiles, strict=True)]
    tile_cell, patch_box = (torch.cat(parts) for parts in zip(*located, strict=True))
    kinds = ["overview" if row < 0 else "strip" for row, _ in tile_cell.tolist()]
    height, width = sizes[tile_image].view(-1, 2, 1, 1).unbind(1)
    left, top, right, bottom = patch_box.unbind(-1)
    position = torch.empty(0, 2, dtype=torch.long)
    if input_ids is not None:
        position = (input_ids.cpu() == config.image_token_id).nonzero()
        if len(position) != len(token_chunk):
            raise ValueError(
                f"input_ids hold {len(position)} image tokens, but these images give {len(token_chunk)}; pass sizes "
                "and prompts of one processor call."
            )
    return ImageAddresses(
        image_sizes=sizes,
        token_chunk=token_chunk,
        token_latent=torch.arange(config.resampler_config.num_latents).repeat(len(patches)),
        token_image=chunk_image[token_chunk],
        token_position=position,
        chunk_image=chunk_image,
        chunk_kind=tuple(kinds) if by_tile and anyres else ("image",) * len(patches),
        chunk_patches=patches,
        chunk_visible=torch.ones_like(patches, dtype=torch.bool) if visible is None else visible,
        tile_image=tile_image,
        tile_cell=tile_cell,
        patch_box=patch_box,
        patch_letterbox=(right <= 0) | (left >= width) | (bottom <= 0) | (top >= height),
    )


def patch_boxes(config: XGenMMConfig, image: list[int], num_tiles: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns grid cells, (num_tiles, 2), and boxes of patches, (num_tiles, side, side, 4), of an image's tiles."""
    (height, width), size = image, config.tile_size
    cells, places = [(-1, -1)], [(0.0, 0.0, width / size, height / size)]  # of each tile: left, top, pixels per pixel
    if config.image_aspect_ratio == "pad":
        length, top, left = centre_in_square(height, width)
        places = [(-left, -top, length / size, length / size)]
    if num_tiles > 1:
        grid = select_grids(torch.tensor([[height, width]]), config.anyres_grids)[0].tolist()
        new_height, new_width, top, left = fit_into_grid(height, width, *grid)
        across, down = width / new_width, height / new_height
        for row, column in product(range(grid[1] // size), range(grid[0] // size)):
            cells.append((row, column))
            places.append(((column * size - left) * across, (row * size - top) * down, across, down))
    left_top, scale = torch.tensor(places, dtype=torch.float64).view(-1, 1, 1, 4).split(2, dim=-1)
    starts = torch.arange(config.patches_per_side, dtype=torch.float64) * config.vision_config.patch_size
    corner = torch.stack(torch.meshgrid(starts, starts, indexing="xy"), dim=-1)  # (side, side, 2)
    boxes = [left_top + (corner + edge) * scale for edge in (0, config.vision_config.patch_size)]
    return torch.tensor(cells), torch.cat(boxes, dim=-1)
