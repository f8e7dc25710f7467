"""Image processing: all cores and one pass, against one tile after another, and against Pillow's resizing alone."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from bench.counts import image_work
from bench.rows import Candidate, Row, compare
from bench.session import Session
from bench.shapes import TILES, image_size, make_images
from xgenmm_hf.modeling.image_processing_xgenmm import usable_cores
from xgenmm_hf.modeling.tiling_xgenmm import fit_into_grid, select_grids


OURS, ONE_BY_ONE, RESIZING = "all cores, one pass", "one tile after another", "Pillow resizing alone, all cores"


def measure_images(session: Session) -> list[Row]:
    """Measures images a second.

    Args:
        session: The run.

    Returns:
        Rows of the processor, of the plain pipeline, of resizing alone, and of the processor on one image.

    Raises:
        RuntimeError: If the processor's pixels differ from the plain pipeline's.
    """
    setting, cutter = session.setting, session.processor.image_processor
    size = image_size(session.config)
    images = make_images(setting.images, size)
    if not torch.equal(cutter(images[:2])["pixel_values"], process_one_by_one(cutter, images[:2])):
        raise RuntimeError("The image processor's pixels differ from those of the plain pipeline.")
    count = len(images)
    work = image_work([size] * count, count * TILES, session.config.tile_size)
    candidates = {
        ONE_BY_ONE: Candidate(lambda: process_one_by_one(cutter, images), count, work),
        OURS: Candidate(lambda: cutter(images), count, work, f"{usable_cores()} cores, {size[1]} x {size[0]} pixels"),
        RESIZING: Candidate(lambda: resize_alone(cutter, images), count),
        "one image": Candidate(lambda: cutter(images[:1]), 1, work.times(1 / count)),
    }
    baselines = {OURS: ONE_BY_ONE, RESIZING: OURS}
    # A run takes a fraction of a second, and the first ones wait for the system's pages.
    effort = replace(setting.effort, runs=3 * setting.effort.runs, warmups=3 * setting.effort.warmups)
    return compare("images", "images", candidates, torch.device("cpu"), effort, baselines)


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keeps torch to one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@on_one_core()
def process_one_by_one(cutter: Any, images: Sequence[Image.Image]) -> torch.Tensor:
    """Cuts images as a plain pipeline does, on one core: every tile cropped, converted and normalised by itself.

    Args:
        cutter: An image processor in any-resolution mode.
        images: RGB images.

    Returns:
        (num_tiles, 3, S, S), equal to the image processor's.
    """
    side = cutter.size["height"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cutter.image_mean, cutter.image_std))
    tiles = []
    for image, grid in zip(images, choose_grids(cutter, images), strict=True):
        canvas = letterbox(image, *grid)
        corners = [(x, y) for y in range(0, grid[1], side) for x in range(0, grid[0], side)]
        crops = [canvas.crop((x, y, x + side, y + side)) for x, y in corners]
        for tile in [image.resize((side, side), Image.Resampling.BICUBIC), *crops]:
            raw = torch.frombuffer(bytearray(tile.tobytes()), dtype=torch.uint8).view(side, side, 3)
            tiles.append((raw.permute(2, 0, 1).contiguous().to(torch.float32) / 255 - mean) / std)
    return torch.stack(tiles)


def letterbox(image: Image.Image, grid_width: int, grid_height: int) -> Image.Image:
    """Resizes an image to fit a black canvas and centres it there."""
    height, width, top, left = fit_into_grid(image.height, image.width, grid_width, grid_height)
    canvas = Image.new("RGB", (grid_width, grid_height))
    canvas.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return canvas


def resize_alone(cutter: Any, images: Sequence[Image.Image]) -> list[None]:
    """Only resizes images, to a tile and to fit their grids, on all cores."""
    side = cutter.size["height"]

    def resize(image: Image.Image, grid: list[int]) -> None:
        height, width, _, _ = fit_into_grid(image.height, image.width, *grid)
        image.resize((side, side), Image.Resampling.BICUBIC)
        image.resize((width, height), Image.Resampling.BICUBIC)

    return run_on_all_cores(resize, images, choose_grids(cutter, images))


def run_on_all_cores(function: Callable[..., None], *arguments: Sequence[Any]) -> list[None]:
    """Maps a function over its arguments with a thread a core."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(function, *arguments))


def choose_grids(cutter: Any, images: Sequence[Image.Image]) -> list[list[int]]:
    """Returns each image's grid as [width, height] in pixels."""
    sizes = torch.tensor([(image.height, image.width) for image in images])
    return list(select_grids(sizes, cutter.anyres_grids).tolist())
