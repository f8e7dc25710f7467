"""Draws a scene as an image of any pixel size.

Geometry is kept in fractions of the image (x to the right, y down, both 0 to 1), so that a thumbnail for training
and a large image for a reader show the same thing. Edges are smoothed by drawing larger and averaging down.
"""

import functools
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from embedded_model.world.scene import Item, Scene, Word


_SUPERSAMPLING = 3
_FONT_UNIT = 100
_TINTS = {
    "red": (214, 38, 42),
    "orange": (246, 136, 28),
    "yellow": (252, 218, 48),
    "green": (38, 158, 74),
    "blue": (36, 92, 216),
    "purple": (140, 58, 178),
    "white": (246, 246, 244),
    "gray": (150, 152, 156),
    "black": (24, 24, 28),
}
_INK = {"white": "black", "gray": "black", "black": "white"}
_EXTENT = {"large": (0.84, 0.92), "small": (0.48, 0.55)}


@dataclass(frozen=True)
class Box:
    """A rectangle in fractions of the image."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Drawn:
    """An item or a word with the rectangle that it fills in the image and how it is turned and tinted."""

    content: Item | Word
    box: Box
    tilt: float
    tint: tuple[int, int, int]


@functools.cache
def letter_edges(text: str) -> list[float]:
    """Returns where each letter of a drawn word ends, in fractions of the word's width."""
    font = ImageFont.load_default(_FONT_UNIT)
    return [font.getlength(text[: end + 1]) / font.getlength(text) for end in range(len(text))]


def image_size(scene: Scene, longest_side: int) -> tuple[int, int]:
    """Returns the (height, width) in pixels of a scene whose longer side has `longest_side` pixels."""
    if scene.aspect >= 1:
        return max(1, round(longest_side / scene.aspect)), longest_side
    return longest_side, max(1, round(longest_side * scene.aspect))


def place_contents(scene: Scene) -> list[Drawn]:
    """Works out where everything stands.

    Args:
        scene: what to draw.

    Returns:
        The shapes in the scene's order, then the word if there is one.
    """
    rng = random.Random(scene.jitter_seed)
    drawn = [_place_item(scene, item, rng) for item in scene.items]
    if scene.word is not None:
        drawn.append(_place_word(scene, scene.word, rng))
    return drawn


def background_tint(scene: Scene) -> tuple[int, int, int]:
    """Returns the exact (red, green, blue) of a scene's background."""
    return _jitter_tint(scene.background, random.Random(scene.jitter_seed + 1), spread=6)


def render(scene: Scene, longest_side: int = 512) -> Image.Image:
    """Draws a scene.

    Args:
        scene: what to draw.
        longest_side: pixels of the image's longer side.

    Returns:
        An RGB image.

    Raises:
        ValueError: if the size is not positive.
    """
    if longest_side < 1:
        raise ValueError(f"The image's longest side must be at least 1 pixel, got {longest_side}.")
    height, width = image_size(scene, longest_side)
    canvas = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING), background_tint(scene))
    draw = ImageDraw.Draw(canvas)
    for drawn in place_contents(scene):
        if isinstance(drawn.content, Word):
            _draw_word(draw, drawn, drawn.content.text, canvas.size)
        else:
            _draw_shape(draw, drawn, drawn.content.shape, canvas.size)
    return canvas.reduce(_SUPERSAMPLING)


def _place_item(scene: Scene, item: Item, rng: random.Random) -> Drawn:
    """Centres a shape in its place, with a random shift that stays inside the place."""
    # Lengths in units of the image's height, so that a shape's width and height are equal on the screen.
    cell_width, cell_height = scene.aspect / scene.columns, 1 / scene.rows
    side = min(cell_width, cell_height) * rng.uniform(*_EXTENT[item.size])
    slack_x = min(cell_width - side, 0.5 * side) * rng.uniform(-0.4, 0.4)
    slack_y = min(cell_height - side, 0.5 * side) * rng.uniform(-0.4, 0.4)
    x = ((item.column + 0.5) * cell_width + slack_x) / scene.aspect
    y = (item.row + 0.5) * cell_height + slack_y
    half_x, half_y = side / 2 / scene.aspect, side / 2
    box = Box(x - half_x, y - half_y, x + half_x, y + half_y)
    return Drawn(item, box, tilt=rng.uniform(-8, 8), tint=_jitter_tint(item.color, rng, spread=14))


def _place_word(scene: Scene, word: Word, rng: random.Random) -> Drawn:
    """Gives a word the largest rectangle of its own proportions inside its row or place."""
    left, right = (
        (0.0, 1.0) if word.column is None else (word.column / scene.columns, (word.column + 1) / scene.columns)
    )
    top, bottom = word.row / scene.rows, (word.row + 1) / scene.rows
    ink = ImageFont.load_default(_FONT_UNIT).getbbox(word.text)
    proportion = (ink[2] - ink[0]) / (ink[3] - ink[1]) / scene.aspect
    height = min((bottom - top) * rng.uniform(0.66, 0.88), (right - left) * rng.uniform(0.7, 0.94) / proportion)
    width = height * proportion
    x = (left + right) / 2 + rng.uniform(-0.4, 0.4) * (right - left - width)
    y = (top + bottom) / 2 + rng.uniform(-0.4, 0.4) * (bottom - top - height)
    box = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Drawn(word, box, tilt=0.0, tint=_jitter_tint(_INK[scene.background], rng, spread=10))


def _jitter_tint(name: str, rng: random.Random, spread: int) -> tuple[int, int, int]:
    """Returns a named colour moved by up to `spread` in each channel."""
    red, green, blue = (min(255, max(0, value + rng.randint(-spread, spread))) for value in _TINTS[name])
    return red, green, blue


def _draw_shape(draw: ImageDraw.ImageDraw, drawn: Drawn, shape: str, size: tuple[int, int]) -> None:
    """Draws one shape as a filled polygon or ellipse; `size` is the canvas' (width, height)."""
    width, height = size
    x, y = (drawn.box.left + drawn.box.right) / 2 * width, (drawn.box.top + drawn.box.bottom) / 2 * height
    radius = (drawn.box.bottom - drawn.box.top) / 2 * height
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=drawn.tint)
        return
    cos, sin = math.cos(math.radians(drawn.tilt)), math.sin(math.radians(drawn.tilt))
    outline = _OUTLINES[shape]
    draw.polygon(
        [(x + radius * (cos * u - sin * v), y + radius * (sin * u + cos * v)) for u, v in outline], fill=drawn.tint
    )


def _draw_word(draw: ImageDraw.ImageDraw, drawn: Drawn, text: str, size: tuple[int, int]) -> None:
    """Writes a word so that its ink fills its rectangle, in Pillow's own font."""
    width, height = size
    unit = ImageFont.load_default(_FONT_UNIT).getbbox(text)
    scale = (drawn.box.bottom - drawn.box.top) * height / (unit[3] - unit[1])
    font = ImageFont.load_default(max(1.0, _FONT_UNIT * scale))
    ink = font.getbbox(text)
    x = (drawn.box.left + drawn.box.right) / 2 * width - (ink[0] + ink[2]) / 2
    y = (drawn.box.top + drawn.box.bottom) / 2 * height - (ink[1] + ink[3]) / 2
    # Stroked with its own colour: the font's thin strokes would vanish in a thumbnail.
    stroke = max(1, round(0.03 * _FONT_UNIT * scale))
    draw.text((x, y), text, font=font, fill=drawn.tint, stroke_width=stroke, stroke_fill=drawn.tint)


def _star() -> list[tuple[float, float]]:
    """Returns the corners of a five-pointed star within the unit circle."""
    radii = [1.08 if index % 2 == 0 else 0.45 for index in range(10)]
    return [(r * math.sin(math.pi * i / 5), 0.05 - r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]


def _heart() -> list[tuple[float, float]]:
    """Returns points of a heart within the unit square."""
    angles = [2 * math.pi * index / 60 for index in range(60)]
    xs = [math.sin(t) ** 3 for t in angles]
    ys = [-(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 for t in angles]
    return [(x, y - 0.12) for x, y in zip(xs, ys, strict=True)]


_ARM = 0.36
_OUTLINES = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)],
    "star": _star(),
    "cross": [
        *((-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM)),
        *((_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM)),
    ],
    "heart": _heart(),
}
