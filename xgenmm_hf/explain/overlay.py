"""An image with the heat of an explanation over it, drawn with Pillow and numpy alone.

Shapes: images and heat of height x width pixels.
"""

import numpy as np
from PIL import Image, ImageDraw

from xgenmm_hf.explain.addresses import ImageAddresses


# Cold to hot, in even steps of lightness, so that it is also readable in grayscale.
_COLORS = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)
_LINE = (255, 255, 255, 150)
# The hottest pixels are cut off here, so that one sharp peak does not hide the rest.
_TOP_QUANTILE = 0.998


def color_of(values: np.ndarray) -> np.ndarray:
    """Maps values in [0, 1] to RGB colours in [0, 255], (..., 3)."""
    position = np.clip(values, 0, 1) * (len(_COLORS) - 1)
    steps = np.arange(len(_COLORS))
    return np.stack([np.interp(position, steps, channel) for channel in _COLORS.T], axis=-1)


def draw_overlay(
    image: Image.Image, heat: np.ndarray, addresses: ImageAddresses | None = None, strength: float = 0.75
) -> Image.Image:
    """Lays heat of pixels, (height, width), over an image: cold pixels become gray and dark, hot ones bright.

    With addresses the borders of the grid's tiles are drawn. `strength`, in [0, 1], is the share of the colour.
    """
    top = float(np.quantile(heat, _TOP_QUANTILE)) or float(heat.max())
    level = np.clip(heat / top, 0, 1) if top > 0 else heat
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    gray = pixels @ np.array([0.299, 0.587, 0.114])
    faded = 0.5 * pixels + 0.5 * gray[..., None] * 0.8
    # half of the colour everywhere, so that cold places differ from parts of the image that happen to be dark
    share = strength * (0.5 + 0.5 * level)[..., None]
    drawn = Image.fromarray((faded * (1 - share) + color_of(level) * share).round().astype(np.uint8))
    if addresses is not None:
        draw = ImageDraw.Draw(drawn, "RGBA")
        for boxes in addresses.patch_box[addresses.tile_cell[:, 0] >= 0]:
            left, upper, right, lower = addresses.box_of(boxes)
            if right - left > 1 and lower - upper > 1:
                draw.rectangle((left, upper, right - 1, lower - 1), outline=_LINE)
    return drawn
