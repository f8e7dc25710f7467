"""An image with the heat of an explanation over it, drawn with Pillow and numpy alone.

Shapes: images and heat of height x width pixels.
"""

import numpy as np
from PIL import Image, ImageDraw

from xgenmm_hf.explain.heat import Cut, box_in_image


# Cold to hot; even steps of lightness, so that it also reads in gray.
_COLORS = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], float)
_LINE = (255, 255, 255, 150)
# The hottest pixels are cut off here, so that one sharp peak does not hide the rest.
_TOP_QUANTILE = 0.998


def color_of(values: np.ndarray) -> np.ndarray:
    """Maps values to colours."""
    position = np.clip(values, 0, 1) * (len(_COLORS) - 1)
    steps = np.arange(len(_COLORS))
    return np.stack([np.interp(position, steps, channel) for channel in _COLORS.T], axis=-1)


def draw_overlay(image: Image.Image, heat: np.ndarray, cut: Cut | None = None, strength: float = 0.75) -> Image.Image:
    """Lays heat over an image: what is cold turns gray and dark, what is hot glows.

    Args:
        image: The image.
        heat: Heat of its pixels, (height, width), zero or more.
        cut: How it was cut; then the borders of its grid's tiles are drawn.
        strength: How much of the heat's colour is laid on where it is hottest, in [0, 1].

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: If heat and image differ in size, or the strength is out of range.
    """
    if heat.shape != (image.height, image.width):
        raise ValueError(
            f"heat is {heat.shape[0]} x {heat.shape[1]} (height x width), the image {image.height} x "
            f"{image.width}; pass the image that was explained."
        )
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; it must be between 0 and 1.")
    top = float(np.quantile(heat, _TOP_QUANTILE)) or float(heat.max())
    level = np.clip(heat / top, 0, 1) if top > 0 else heat
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    gray = pixels @ np.array([0.299, 0.587, 0.114])
    faded = 0.5 * pixels + 0.5 * gray[..., None] * 0.8
    # half of the colour everywhere, so that cold places differ from parts of the image that happen to be dark
    share = strength * (0.5 + 0.5 * level)[..., None]
    drawn = Image.fromarray((faded * (1 - share) + color_of(level) * share).round().astype(np.uint8))
    if cut is not None and cut.num_tiles > 1:
        draw = ImageDraw.Draw(drawn, "RGBA")
        for tile in range(1, cut.num_tiles):
            left, upper, right, lower = box_in_image(cut, *cut.patch_edges(tile))
            if right - left > 1 and lower - upper > 1:
                draw.rectangle((left, upper, right - 1, lower - 1), outline=_LINE)
    return drawn
