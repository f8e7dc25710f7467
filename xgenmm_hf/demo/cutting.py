"""What the model sees of an image: how it is cut into tiles, and what that costs in tokens.

Shapes: an image of height x width pixels in num_tiles tiles of S x S pixels; tile 0 shows the whole image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw

from xgenmm_hf.explain.addresses import image_token_addresses
from xgenmm_hf.modeling.tiling_xgenmm import fit_into_grid


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


_LINE = (255, 196, 0)
_THICKNESS = 3


@dataclass(frozen=True)
class CutView:
    """An image as the model sees it."""

    drawn: Image.Image  # on its grid, with the tiles' borders; or as a whole, where it is not cut
    tiles: tuple[tuple[str, Image.Image], ...]  # (name, S x S image) each
    columns: int  # 0 without a grid
    rows: int
    num_tokens: int
    summary: str


def view_cut(config: Any, processor: "XGenMMProcessor", image: Image.Image) -> CutView:
    """Cuts an image as the model does and shows it."""
    prepared = processor.image_processor([image], return_tensors="np", do_normalize=False)
    tiles = [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in prepared["pixel_values"]]
    size, count = [(image.height, image.width)], torch.tensor([len(tiles)])
    addresses = image_token_addresses(size, config, image_num_tiles=count)
    rows, columns = (addresses.tile_cell.amax(0) + 1).tolist()
    names = ["overview", *(f"row {row + 1}, column {column + 1}" for row, column in addresses.tile_cell[1:].tolist())]
    latents, each = config.resampler_config.num_latents, config.anyres_patch_sampling
    num_tokens = len(addresses.token_chunk)
    if len(tiles) == 1:
        cut = f"is shown to the model whole, as one tile of {config.tile_size} x {config.tile_size}"
    else:
        cut = f"becomes an overview and {columns} x {rows} tiles of {config.tile_size} x {config.tile_size}"
    sampled = f"{len(tiles)} x {latents}" if each else "sampled together"
    summary = f"{image.width} x {image.height} pixels: the image {cut} pixels, {num_tokens} tokens ({sampled})."
    drawn = draw_grid(image, columns, rows, config.tile_size) if columns else image
    return CutView(drawn, tuple(zip(names, tiles, strict=True)), columns, rows, num_tokens, summary)


def draw_grid(image: Image.Image, columns: int, rows: int, tile_size: int) -> Image.Image:
    """Draws an image on its grid's black canvas with the borders between the tiles."""
    # Small tiles are drawn large enough to be looked at; proportions stay.
    side = max(tile_size, 192)
    height, width, top, left = fit_into_grid(image.height, image.width, columns * side, rows * side)
    canvas = Image.new("RGB", (columns * side, rows * side))
    canvas.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    draw = ImageDraw.Draw(canvas)
    for column in range(1, columns):
        draw.line((column * side, 0, column * side, canvas.height), fill=_LINE, width=_THICKNESS)
    for row in range(1, rows):
        draw.line((0, row * side, canvas.width, row * side), fill=_LINE, width=_THICKNESS)
    return canvas
