"""First stage of the embedded model: the vision tower learns what stands where, patch by patch.

Questions alone teach a tower very slowly. Here every patch of every tile is labelled with what is drawn at its centre (shape, colour,
size, background, word and letter), which linear heads on the tower's output must tell; the heads are thrown away afterwards. The
tiles are those of any-resolution pictures: the whole picture squashed, and grid tiles with their black letterbox borders.

Shape legend: tiles = crops of the tower's input size, patches = cells of a tile (`side * side` of them).
"""

import math
import random

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from xgenmm_hf.data.render import Box, Drawn, letter_edges, place_contents, render
from xgenmm_hf.data.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, WORDS, Scene, Word, make_scene

LETTERS = tuple(sorted(set("".join(WORDS))))
# What a patch is labelled with, and the number of classes; class 0 stands for "nothing of the kind here".
LABELS = {
    "shape": len(SHAPES) + 1,
    "color": len(COLORS) + 1,
    "size": len(SIZES) + 1,
    "background": len(BACKGROUNDS) + 1,
    "word": len(WORDS) + 1,
    "letter": len(LETTERS) + 1,
}
LONGEST_SIDES = (96, 256)


def draw_training_picture(seed: int, split: str) -> tuple[Scene, Image.Image]:
    """Returns the scene of a seed, and its picture at a pixel size that the seed decides."""
    scene = make_scene(4 * seed, split)
    for k in (1, 2, 3):
        if len(scene.items) >= 4 or len(scene.items) >= scene.rows * scene.columns - (scene.columns if scene.word else 0):
            break
        scene = make_scene(4 * seed + k, split)
    longest = random.Random(f"size/{seed}").randint(*LONGEST_SIDES)
    return scene, render(scene, longest)


def patch_centres(boxes: list[Box], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Places the patches of tiles in their picture.

    Args:
        boxes: what each tile shows, in fractions of the picture; letterbox borders reach outside 0 to 1.
        side: patches along a tile's side.

    Returns:
        x and y of the patches' centres in fractions of the picture, each (num_tiles, side * side).
    """
    steps = (np.arange(side) + 0.5) / side
    x = np.stack([np.tile(box.left + (box.right - box.left) * steps, side) for box in boxes])
    y = np.stack([np.repeat(box.top + (box.bottom - box.top) * steps, side) for box in boxes])
    return x, y


def label_patches(scene: Scene, x: np.ndarray, y: np.ndarray, scale) -> np.ndarray:
    """Labels points of a picture with what is drawn there.

    Args:
        scene: what the picture shows.
        x, y: the points, in fractions of the picture, any shape.

    Returns:
        Class numbers, the points' shape + (len(LABELS),); a shape counts as filling its whole rectangle.
    """
    labels = np.zeros((*x.shape, len(LABELS)), dtype=np.int64)
    edges = np.zeros((*x.shape, 4))
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    labels[inside, 3] = BACKGROUNDS.index(scene.background) + 1
    for drawn in place_contents(scene):
        box = drawn.box
        here = inside & (x >= box.left) & (x < box.right) & (y >= box.top) & (y < box.bottom)
        distances = np.stack([x - box.left, box.right - x, y - box.top, box.bottom - y], axis=-1)
        edges[here] = (distances / np.repeat(scale, 2, axis=-1)[:, None, :])[here]
        if isinstance(drawn.content, Word):
            labels[here, 4] = WORDS.index(drawn.content.text) + 1
            labels[here, 5] = _letters_at(drawn, x[here])
        else:
            labels[here, 0] = SHAPES.index(drawn.content.shape) + 1
            labels[here, 1] = COLORS.index(drawn.content.color) + 1
            labels[here, 2] = SIZES.index(drawn.content.size) + 1
    return labels, edges


def _letters_at(drawn: Drawn, x: np.ndarray) -> np.ndarray:
    """Returns the class of the letter of a drawn word at each x."""
    text = drawn.content.text
    along = (x - drawn.box.left) / (drawn.box.right - drawn.box.left)
    positions = np.searchsorted(letter_edges(text)[:-1], along, side="right")
    return np.array([LETTERS.index(text[position]) + 1 for position in positions], dtype=np.int64)


class TileDataset(Dataset):
    """Tiles of drawn pictures with the labels of their patches; item i is picture i of the stream."""

    def __init__(self, tile_picture, num_pictures: int, first_seed: int, split: str, side: int):
        """Sets the stream up.

        Args:
            tile_picture: takes a picture, gives its tiles (num_tiles, 3, S, S) and their boxes.
            num_pictures: length of the stream.
            first_seed: seed of its first scene.
            split: `TRAIN` or `HELD_OUT`.
            side: patches along a tile's side.
        """
        self.tile_picture, self.num_pictures = tile_picture, num_pictures
        self.first_seed, self.split, self.side = first_seed, split, side

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return self.num_pictures

    def __getitem__(self, index: int) -> dict:
        """Returns one picture's tiles and labels (num_tiles, patches, len(LABELS))."""
        scene, picture = draw_training_picture(self.first_seed + index, self.split)
        tiles, boxes = self.tile_picture(picture)
        x, y = patch_centres(boxes, self.side)
        scale = np.array([[box.right - box.left, box.bottom - box.top] for box in boxes])
        labels, edges = label_patches(scene, x, y, scale)
        return {"pixel_values": tiles, "labels": torch.from_numpy(labels), "edges": torch.from_numpy(edges).float()}


def collate_tiles(rows: list[dict]) -> dict:
    """Puts the tiles of several pictures one after another."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


class DenseTower(nn.Module):
    """A vision tower with one linear head per kind of patch label."""

    def __init__(self, tower: nn.Module, hidden_size: int):
        """Puts untrained heads on a tower that returns `last_hidden_state` (num_tiles, patches, hidden_size)."""
        super().__init__()
        self.tower = tower
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, classes) for name, classes in LABELS.items()})
        self.edges = nn.Linear(hidden_size, 4)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor, edges) -> dict:
        """Returns the summed loss and each patch's correctness (num_tiles, patches, len(LABELS))."""
        f = self.tower(pixel_values).last_hidden_state
        o = score_patches(self.heads, f, labels)
        o["edge"] = ((self.edges(f).float() - 4 * edges).abs() * (edges[..., :1] > 0)).sum() / (edges[..., :1] > 0).sum() / 4
        o["loss"] = o["loss"] + o["edge"]
        return o


def score_patches(heads: nn.ModuleDict, features: torch.Tensor, labels: torch.Tensor) -> dict:
    """Compares what heads tell about patches with their labels.

    Args:
        heads: a classifier per name of `LABELS`.
        features: (num_tiles, patches, width).
        labels: (num_tiles, patches, len(LABELS)).

    Returns:
        `loss`, summed over the kinds of labels, and `correct` (num_tiles, patches, len(LABELS)).
    """
    loss, correct = 0.0, []
    for index, head in enumerate(heads.values()):
        logits, target = head(features).float(), labels[..., index]
        wanted = target if index in (1, 3) else target.masked_fill(target == 0, -100)
        loss = loss + nn.functional.cross_entropy(logits.flatten(0, -2), wanted.flatten())
        correct.append(logits.argmax(-1) == target)
    return {"loss": loss, "correct": torch.stack(correct, dim=-1)}


def patch_accuracy(correct: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the accuracy per kind of label over the patches that show something of the kind."""
    return {
        name: float(correct[..., index][labels[..., index] > 0].mean())
        for index, name in enumerate(LABELS)
    }
