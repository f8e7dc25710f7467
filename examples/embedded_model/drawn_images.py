"""The images that the recipe proof trains on: drawn once, told apart by their number."""

import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from embedded_model.world.render import render
from embedded_model.world.scene import LAYOUT_WEIGHTS, TRAIN, Scene, disallow, make_scene


# Seeds of other images lie below.
FIRST_SEED = 900_000_000
_LONGEST_SIDES = (96, 256)
_DISALLOWED_SHARE = 0.12


def scene_of(number: int) -> Scene:
    """Returns what the training image of a number shows; some words are of the disallowed category."""
    rng = random.Random(f"recipe/{number}")
    layout = rng.choices(list(LAYOUT_WEIGHTS), weights=list(LAYOUT_WEIGHTS.values()))[0]
    scene = make_scene(FIRST_SEED + number, TRAIN, layout)
    return disallow(scene, rng) or scene if rng.random() < _DISALLOWED_SHARE else scene


def file_of(number: int) -> str:
    """Returns the file name of the image of a number."""
    return f"{number:06d}.png"


def draw_images(folder: Path, count: int, processes: int = 1) -> None:
    """Draws the images that a folder lacks.

    Args:
        folder: where they go; it is made.
        count: images from number 0 on.
        processes: how many draw at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(count) if not (folder / file_of(number)).exists()]
    with ProcessPoolExecutor(processes) as workers:
        for _ in workers.map(partial(_draw, folder), missing, chunksize=64):
            pass


def _draw(folder: Path, number: int) -> None:
    """Draws one image, beside its place first."""
    side = random.Random(f"side/{number}").randint(*_LONGEST_SIDES)
    staged = folder / f"{number:06d}.part"
    render(scene_of(number), side).save(staged, format="PNG")
    staged.replace(folder / file_of(number))
