"""Draws how an image becomes tokens: image -> tiles -> strips -> latents -> tokens of the prompt.

    python examples/draw_anatomy.py [IMAGE] [--model PATH] [--output anatomy.png]

Everything drawn is computed: tiles by the model's image processor, strips and the letterbox by the model's geometry.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

import xgenmm_hf
from xgenmm_hf import ImageAddresses, image_token_addresses


IMAGE = Path(xgenmm_hf.TINY_MODEL).parent / "images" / "2-cafe.png"
COLORS = ("#8c8c8c", "#3b6ea5", "#d1783a", "#4e9a52", "#8e5ba6")
CAPTIONS = (
    "image",
    "tiles: the whole image,\nthen the cells of the best grid",
    "chunks: the grid's feature map is cut\ninto strips; letterbox (dark) is unseen",
    "latents: the resampler makes\n{latents} tokens of each chunk",
)


def main() -> None:
    """Reads the arguments and writes the drawing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(IMAGE))
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--output", default="anatomy.png")
    args = parser.parse_args()
    figure = draw(Image.open(args.image).convert("RGB"), args.model)
    figure.savefig(args.output)
    print(f"Wrote {args.output}")


def draw(image: Image.Image, model: str) -> Figure:
    """Returns the drawing of an image's way through a model."""
    config = xgenmm_hf.XGenMMConfig.from_pretrained(model)
    inputs = xgenmm_hf.XGenMMImageProcessor.from_pretrained(model)(images=[image], return_tensors="pt")
    addresses = image_token_addresses(inputs["image_sizes"], config)
    rows, columns = (addresses.tile_cell.amax(0) + 1).tolist()
    pixels = (inputs["pixel_values"].permute(0, 2, 3, 1).numpy() + 1) / 2
    latents = config.resampler_config.num_latents
    figure = Figure(figsize=(13, 4.6), dpi=110)
    figure.text(0.01, 0.95, f"{image.width} x {image.height} pixels, a grid of {columns} x {rows} tiles", fontsize=11)
    axes = [figure.add_axes((0.02 + 0.25 * index, 0.34, 0.2, 0.5)) for index in range(4)]
    axes[0].imshow(image)
    show_tiles(axes[1], pixels, columns, rows)
    show_chunks(axes[2], addresses, columns, rows)
    show_latents(axes[3], len(pixels), latents)
    for axis, caption in zip(axes, CAPTIONS, strict=True):
        axis.set_axis_off()
        axis.set_title(caption.format(latents=latents), fontsize=9)
    for index in range(3):
        x = 0.02 + 0.25 * index + 0.205
        figure.add_artist(
            FancyArrowPatch((x, 0.59), (x + 0.04, 0.59), arrowstyle="-|>", mutation_scale=16, color="0.3")
        )
    show_prompt(figure.add_axes((0.02, 0.04, 0.96, 0.2)), len(pixels), latents)
    return figure


def show_tiles(axis, pixels: np.ndarray, columns: int, rows: int) -> None:
    """Shows the overview and, right of it, the grid's tiles, (num_tiles, S, S, 3), with a gap between them."""
    for index, tile in enumerate(pixels):
        x, y = (
            (0.0, (rows - 1) * 0.65)
            if index == 0
            else (1.3 + (index - 1) % columns * 1.08, (index - 1) // columns * 1.3)
        )
        axis.imshow(tile, extent=(x, x + 1, y + 1, y))
        axis.add_patch(Rectangle((x, y), 1, 1, fill=False, linewidth=2.5, edgecolor=COLORS[index % len(COLORS)]))
        axis.text(x + 0.5, y - 0.08, str(index), fontsize=8, ha="center", color="0.3")
    axis.set_xlim(-0.1, 1.4 + columns * 1.08)
    axis.set_ylim(max(rows * 1.3, 1.0) + 0.1, -0.3)


def show_chunks(axis, addresses: ImageAddresses, columns: int, rows: int) -> None:
    """Shows the overview's chunk, and which chunk every patch of the merged map goes to."""
    num_tiles, side = addresses.patch_letterbox.shape[:2]
    chunk_of, visible = torch.zeros(num_tiles * side * side, dtype=torch.long), torch.ones(num_tiles * side * side)
    chunk_of[addresses.chunk_patches] = torch.arange(num_tiles).unsqueeze(1)
    visible[addresses.chunk_patches] = addresses.chunk_visible.float()
    colors = np.array([[int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)] for color in COLORS])
    patches = colors[chunk_of % len(COLORS)] * (0.25 + 0.75 * visible.numpy()[:, None])
    maps = patches.reshape(num_tiles, side, side, 3)
    grid = (
        maps[1:].reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
    )
    axis.imshow(maps[0], extent=(0, 1, (rows + 1) / 2, (rows - 1) / 2))
    axis.imshow(grid, extent=(1.3, 1.3 + columns, rows, 0))
    axis.set_xlim(-0.1, 1.4 + columns)
    axis.set_ylim(max(rows, 1) + 0.1, -0.1)


def show_latents(axis, num_tiles: int, latents: int) -> None:
    """Shows each chunk's tokens as a row of cells."""
    for tile in range(num_tiles):
        for token in range(latents):
            axis.add_patch(Rectangle((token, tile), 0.8, 0.6, color=COLORS[tile % len(COLORS)]))
    axis.set_xlim(-1, latents)
    axis.set_ylim(num_tiles, -0.5)


def show_prompt(axis, num_tiles: int, latents: int) -> None:
    """Shows the prompt with the image's tokens in it."""
    words = ["<|user|>", *[""] * num_tiles, "What", "is", "this", "?", "<|end|>", "<|assistant|>"]
    width = 1 / len(words)
    for index, word in enumerate(words):
        is_tile = 1 <= index <= num_tiles
        color = COLORS[(index - 1) % len(COLORS)] if is_tile else "#f0ede4"
        axis.add_patch(Rectangle((index * width, 0.3), width * 0.94, 0.5, facecolor=color, edgecolor="0.4"))
        text = f"{latents} tokens" if is_tile else word
        axis.text(
            (index + 0.47) * width, 0.55, text, ha="center", va="center", fontsize=8.5, color="w" if is_tile else "k"
        )
    caption = f"the prompt, where <image> has become {num_tiles} x {latents} = {num_tiles * latents} tokens"
    axis.text(0, 0.02, caption, fontsize=9)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_axis_off()


if __name__ == "__main__":
    main()
