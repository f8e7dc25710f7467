"""What the patches of drawn images show: what the embedded model's tower learns from before any language.

Shape legend: an image has num_tiles tiles of num_patches = side * side patches; points are fractions of the image,
x to the right and y down, and letterbox borders lie outside 0 to 1.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from embedded_model.world.language import PLACES, place_name
from embedded_model.world.render import Box, Drawn, background_tint, letter_edges, place_contents, render
from embedded_model.world.scene import (
    BACKGROUNDS,
    COLORS,
    DISALLOWED_WORDS,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    Word,
    disallow,
    make_scene,
)
from xgenmm_hf import fit_into_grid, select_grids


WRITTEN = (*WORDS, *DISALLOWED_WORDS)
LETTERS = tuple(sorted(set("".join(WRITTEN))))
# The kinds of classes of a patch and how many there are; class 0 stands for "nothing of the kind here".
CLASSES = {
    "shape": len(SHAPES) + 1,
    "color": len(COLORS) + 1,
    "size": len(SIZES) + 1,
    "background": len(BACKGROUNDS) + 1,
    "word": len(WRITTEN) + 1,
    "letter": len(LETTERS) + 1,
}
# The kinds of classes of a named place.
PLACE_CLASSES = {name: CLASSES[name] for name in ("shape", "color", "size", "background", "word")}
# Cells along a patch's side in which drawn pixels are counted.
INK_CELLS = 4
WHOLE_IMAGE = Box(0.0, 0.0, 1.0, 1.0)
_LONGEST_SIDES = (96, 256)
_BUSY = 4
# So that the words of the disallowed category are read as well as the others.
_DISALLOWED_SHARE = 0.12


@dataclass(frozen=True)
class PatchLabels:
    """Targets of the patches of some tiles.

    Args:
        classes: class numbers, (num_tiles, num_patches, len(CLASSES)).
        edges: distances from a patch's centre to the left, right, upper and lower edge of what stands there, in tile
            sides; 0 where nothing stands, (num_tiles, num_patches, 4).
    """

    classes: torch.Tensor
    edges: torch.Tensor


def draw_busy_image(seed: int, split: str) -> tuple[Scene, Image.Image]:
    """Draws an image that is rather full, at a random size: full images teach more per tile.

    Args:
        seed: any integer; the same seed gives the same image.
        split: `TRAIN` or `HELD_OUT`.

    Returns:
        The scene and its image.
    """
    for attempt in range(4):
        scene = make_scene(4 * seed + attempt, split)
        places = scene.rows * scene.columns - (scene.columns if scene.word else 0)
        if len(scene.items) >= min(_BUSY, places):
            break
    rng = random.Random(f"size/{seed}")
    side = rng.randint(*_LONGEST_SIDES)
    if rng.random() < _DISALLOWED_SHARE:
        scene = disallow(scene, rng) or scene
    return scene, render(scene, side)


def tile_boxes(height: int, width: int, anyres_grids: list[list[int]], tile_size: int) -> list[Box]:
    """Returns what each tile of an image shows, in the order of the tiles: the overview, then the grid row by row.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        anyres_grids: grids as (width, height) in pixels.
        tile_size: side of a tile in pixels.

    Returns:
        A rectangle a tile.
    """
    grid_width, grid_height = select_grids(torch.tensor([[height, width]]), anyres_grids)[0].tolist()
    new_height, new_width, top, left = fit_into_grid(height, width, grid_width, grid_height)
    boxes = [WHOLE_IMAGE]
    for y in range(0, grid_height, tile_size):
        for x in range(0, grid_width, tile_size):
            right, bottom = (x + tile_size - left) / new_width, (y + tile_size - top) / new_height
            boxes.append(Box((x - left) / new_width, (y - top) / new_height, right, bottom))
    return boxes


def label_patches(scene: Scene, boxes: list[Box], side: int) -> PatchLabels:
    """Labels the patches of tiles with what is drawn at their centres; a shape counts as filling its whole rectangle.

    Args:
        scene: what the image shows.
        boxes: what each tile shows of it.
        side: patches along a tile's side.

    Returns:
        The labels.
    """
    x, y = _patch_centres(boxes, side)
    tile_sides = np.array([[box.right - box.left, box.right - box.left, *[box.bottom - box.top] * 2] for box in boxes])
    classes = np.zeros((*x.shape, len(CLASSES)), dtype=np.int64)
    edges = np.zeros((*x.shape, 4), dtype=np.float32)
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    classes[inside, 3] = BACKGROUNDS.index(scene.background) + 1
    for drawn in place_contents(scene):
        box = drawn.box
        here = inside & (x >= box.left) & (x < box.right) & (y >= box.top) & (y < box.bottom)
        distances = np.stack([x - box.left, box.right - x, y - box.top, box.bottom - y], axis=-1)
        edges[here] = (distances / tile_sides[:, None])[here]
        if isinstance(drawn.content, Word):
            classes[here, 4] = WRITTEN.index(drawn.content.text) + 1
            classes[here, 5] = _letters_at(drawn, drawn.content.text, x[here])
        else:
            item = drawn.content
            classes[here, :3] = SHAPES.index(item.shape) + 1, COLORS.index(item.color) + 1, SIZES.index(item.size) + 1
    return PatchLabels(torch.from_numpy(classes), torch.from_numpy(edges))


def label_places(scene: Scene) -> torch.Tensor:
    """Labels the named places of an image with what stands there.

    Args:
        scene: what the image shows.

    Returns:
        Class numbers, (len(PLACES), len(PLACE_CLASSES)); a word stands at the place that its name tells.
    """
    labels = torch.zeros(len(PLACES), len(PLACE_CLASSES), dtype=torch.long)
    for item in scene.items:
        place = PLACES.index(place_name(scene, item.row, item.column))
        traits = SHAPES.index(item.shape) + 1, COLORS.index(item.color) + 1, SIZES.index(item.size) + 1
        labels[place, :3] = torch.tensor(traits)
    if scene.word is not None:
        place = PLACES.index(place_name(scene, scene.word.row, scene.word.column))
        labels[place, 4] = WRITTEN.index(scene.word.text) + 1
    labels[:, 3] = BACKGROUNDS.index(scene.background) + 1
    return labels


def count_ink(scene: Scene, pixel_values: torch.Tensor, classes: torch.Tensor, side: int) -> torch.Tensor:
    """Measures how much of each cell of each patch is drawn upon.

    Args:
        scene: what the image shows; its background's exact colour counts.
        pixel_values: the image's tiles, (num_tiles, 3, S, S) in -1 to 1.
        classes: the patches' classes: patches outside of the image have no ink.
        side: patches along a tile's side.

    Returns:
        Shares from 0 to 1, (num_tiles, num_patches, INK_CELLS * INK_CELLS).
    """
    tint = torch.tensor(background_tint(scene)) / 127.5 - 1
    ink = ((pixel_values - tint[:, None, None]).abs().amax(1, keepdim=True) > 0.3).float()
    cells = torch.nn.functional.adaptive_avg_pool2d(ink, side * INK_CELLS)
    cells = torch.nn.functional.unfold(cells, INK_CELLS, stride=INK_CELLS).transpose(1, 2)
    return cells * (classes[..., 3:4] > 0)


def _patch_centres(boxes: list[Box], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of the centres of the patches of each tile, (num_tiles, side * side) each."""
    steps = (np.arange(side) + 0.5) / side
    x = np.stack([np.tile(box.left + (box.right - box.left) * steps, side) for box in boxes])
    y = np.stack([np.repeat(box.top + (box.bottom - box.top) * steps, side) for box in boxes])
    return x, y


def _letters_at(drawn: Drawn, text: str, x: np.ndarray) -> np.ndarray:
    """Returns the class of the letter of a drawn word at each x."""
    along = (x - drawn.box.left) / (drawn.box.right - drawn.box.left)
    positions = np.searchsorted(letter_edges(text)[:-1], along, side="right")
    return np.array([LETTERS.index(text[position]) + 1 for position in positions], dtype=np.int64)
