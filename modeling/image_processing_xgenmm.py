"""Images -> tiles, pixel by pixel as the original does, with Pillow and numpy alone.

Shapes: a call gives all tiles of all images flat, (num_tiles, 3, S, S) float32 in [-1, 1]. Sizes are
(height, width) in pixels.

Source: the released image processor (Pillow bicubic resizing, black letterbox, (u8 / 255 - mean) / std).
"""

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import to_pil_image
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format, load_image

from .remote_code_xgenmm import AUTO_MAP
from .tile_memory_xgenmm import borrow
from .tiling_xgenmm import ASPECT_RATIO_MODES, check_grids, default_grids, fit_into_grid, select_grids


class XGenMMImageProcessor(BaseImageProcessor):
    """Cuts images into tiles.

    Args:
        image_aspect_ratio: `"anyres"` (the image squashed to a tile, then the tiles of its grid row by row),
            `"none"` (squash to one tile) or `"pad"` (square canvas filled with int(255 * mean), then one tile).
        anyres_grids: Grid resolutions as (width, height) in pixels, multiples of the tile size; the order decides
            ties. Default: the released models' (1, 2), (2, 1), (2, 2), (3, 1) and (1, 3) tiles.
        size: Tile size, `{"height": S, "width": S}` or S, in pixels.
        image_mean: Mean of each channel, in [0, 1].
        image_std: Standard deviation of each channel.
        **kwargs: Further fields of the saved file.

    Raises:
        ValueError: If an option is out of range.
    """

    model_input_names = ["pixel_values", "image_sizes", "image_num_tiles"]
    _auto_class = "AutoImageProcessor"

    def __init__(
        self,
        image_aspect_ratio: str = "anyres",
        anyres_grids: list | None = None,
        size: dict[str, int] | int | None = None,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.image_aspect_ratio = checked_mode(image_aspect_ratio)
        self.size = checked_size(size)
        grids = default_grids(self.size["height"]) if anyres_grids is None else anyres_grids
        self.anyres_grids = [list(grid) for grid in grids]
        self.image_mean = [0.5, 0.5, 0.5] if image_mean is None else list(image_mean)
        self.image_std = [0.5, 0.5, 0.5] if image_std is None else list(image_std)
        self.auto_map = {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}
        if self.image_aspect_ratio == "anyres":
            check_grids(self.anyres_grids, self.size["height"])

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """Cuts images into tiles; see `process`."""
        return self.process(images, **kwargs)

    def process(
        self,
        images: Any,
        image_aspect_ratio: str | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Cuts images into tiles, several images at once on all cores.

        Args:
            images: An image or a (nested) list of them: PIL images, arrays and tensors of uint8 values (channels
                first or last), or paths, URLs and base64 strings. Images that are not RGB are converted.
            image_aspect_ratio: Mode of this call; default: the processor's.
            return_tensors: `"pt"` or `"np"`.
            **kwargs: Ignored, as other image processors' options are.

        Returns:
            `pixel_values` (num_tiles, 3, S, S), `image_sizes` (num_images, 2) as (height, width) and
            `image_num_tiles` (num_images,).

        Raises:
            ValueError: If something is not an image or cannot be read.
        """
        mode = checked_mode(image_aspect_ratio or self.image_aspect_ratio)
        images = [to_rgb(image, index) for index, image in enumerate(flatten(images))]
        if not images:
            raise ValueError("images is empty; pass at least one image, or leave images out for a text-only prompt.")
        pixel_values, image_sizes, image_num_tiles = self._cut_all(images, mode)
        data = {"pixel_values": pixel_values, "image_sizes": image_sizes, "image_num_tiles": image_num_tiles}
        return BatchFeature(data, tensor_type=return_tensors)

    def preprocess(
        self, images: Any, image_aspect_ratio: str | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """The Hub-era call, with the original's shapes.

        Args:
            images: An image or a list of them.
            image_aspect_ratio: `"anyres"` tiles the images; None gives one tile per image.
            return_tensors: Ignored: the original always gave torch tensors.
            **kwargs: Ignored.

        Returns:
            `pixel_values`: with `"anyres"` (images, tiles, 3, S, S), or a list of (tiles, 3, S, S) where the
            images have different numbers of tiles; else (1, images, 1, 3, S, S).

        Raises:
            ValueError: If something is not an image or cannot be read.
        """
        one_tile = "none" if self.image_aspect_ratio == "anyres" else self.image_aspect_ratio
        batch = self.process(images, image_aspect_ratio=image_aspect_ratio or one_tile)
        if image_aspect_ratio != "anyres":
            return BatchFeature({"pixel_values": batch["pixel_values"][None, :, None]})
        images = list(batch["pixel_values"].split(batch["image_num_tiles"].tolist()))
        same = len({image.shape[0] for image in images}) == 1
        return BatchFeature({"pixel_values": torch.stack(images) if same else images})

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """Counts the tiles of an image (called patches by other models' processors).

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
            images_kwargs: Options of the call; `image_aspect_ratio` counts.

        Returns:
            The number of tiles.
        """
        mode = checked_mode((images_kwargs or {}).get("image_aspect_ratio") or self.image_aspect_ratio)
        return self._count_tiles(self._grids([(height, width)], mode)[0])

    def _grids(self, sizes: list[tuple[int, int]], mode: str) -> list[list[int] | None]:
        """Returns the grid of each image as [width, height] in pixels; None in the one-tile modes."""
        if mode != "anyres":
            return [None] * len(sizes)
        check_grids(self.anyres_grids, self.size["height"])
        return list(select_grids(torch.tensor(sizes), self.anyres_grids).tolist())

    def _count_tiles(self, grid: list[int] | None) -> int:
        return 1 if grid is None else 1 + grid[0] * grid[1] // self.size["height"] ** 2

    def _cut_all(self, images: list[Image.Image], mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cuts all images, each into its own part of one array."""
        sizes = [(image.height, image.width) for image in images]
        grids = self._grids(sizes, mode)
        num_tiles = np.array([self._count_tiles(grid) for grid in grids])
        side = self.size["height"]
        shape = (int(num_tiles.sum()), 3, side, side)
        pixel_values = borrow(math.prod(shape)).reshape(shape)
        parts = np.split(pixel_values, num_tiles.cumsum()[:-1])
        mean, std = (np.array(values, dtype=np.float32) for values in (self.image_mean, self.image_std))

        def cut(image: Image.Image, grid: list[int] | None, part: np.ndarray) -> None:
            fill_tiles(part[:1], self._one_tile(image, mode), 1, (0, 0), mean, std)
            if grid is not None:
                height, width, top, left = fit_into_grid(image.height, image.width, *grid)
                resized = image.resize((width, height), Image.Resampling.BICUBIC)
                fill_tiles(part[1:], resized, grid[0] // side, (top, left), mean, std)

        jobs = (images, grids, parts)
        workers = min(len(images), usable_cores())
        if workers == 1:
            for job in zip(*jobs, strict=True):
                cut(*job)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(cut, *jobs))
        return pixel_values, np.array(sizes), num_tiles

    def _one_tile(self, image: Image.Image, mode: str) -> Image.Image:
        if mode == "pad" and image.width != image.height:
            side = max(image.size)
            canvas = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in self.image_mean))
            canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = canvas
        return image.resize((self.size["width"], self.size["height"]), Image.Resampling.BICUBIC)


def checked_mode(mode: str) -> str:
    """Returns an aspect-ratio mode, or raises a ValueError if it is none."""
    if mode not in ASPECT_RATIO_MODES:
        raise ValueError(f"image_aspect_ratio is {mode!r}; it must be one of {', '.join(ASPECT_RATIO_MODES)}.")
    return mode


def checked_size(size: dict[str, int] | int | None) -> dict[str, int]:
    """Returns the tile size as `{"height": S, "width": S}`, or raises a ValueError if it is not square."""
    if size is None:
        size = 384
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if size.get("height") != size.get("width") or not isinstance(size.get("height"), int) or size["height"] <= 0:
        raise ValueError(f'size is {size}; tiles are square: give {{"height": S, "width": S}} in pixels.')
    return {"height": size["height"], "width": size["width"]}


def flatten(images: Any) -> Iterable[Any]:
    """Yields the images of an image, a list or nested lists."""
    if isinstance(images, (list, tuple)):
        for item in images:
            yield from flatten(item)
    elif isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        yield from images
    else:
        yield images


def to_rgb(image: Any, index: int) -> Image.Image:
    """Returns an image as an RGB PIL image; EXIF rotation is not applied to files, as in the original.

    Args:
        image: PIL image, array or tensor of uint8 values, or path, URL or base64 string.
        index: Position in the call, for the message.

    Returns:
        The image.

    Raises:
        ValueError: If it is not an image or cannot be read.
    """
    if isinstance(image, (np.ndarray, torch.Tensor)):
        image = array_to_image(np.asarray(image), index)
    if isinstance(image, (str, Path)):
        image = open_image(image, index)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"images[{index}] is a {type(image).__name__}; "
            "pass PIL images (PIL.Image.open(path)), numpy arrays or tensors."
        )
    if image.width == 0 or image.height == 0:
        raise ValueError(f"images[{index}] is {image.width} x {image.height} pixels; it must not be empty.")
    try:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"images[{index}] cannot be read ({error}); the file is damaged or truncated.") from error


def open_image(source: str | Path, index: int) -> Image.Image:
    """Opens a local file, or loads a URL or base64 string through the library."""
    try:
        return Image.open(source) if Path(source).is_file() else load_image(str(source))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"images[{index}] cannot be opened from {str(source)[:80]!r}: {error}") from error


def array_to_image(array: np.ndarray, index: int) -> Image.Image:
    """Returns a uint8 array (channels first or last) as a PIL image."""
    if array.ndim != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"images[{index}] is an array of shape {array.shape} and type {array.dtype}; pass uint8 values of shape "
            "(height, width, 3) or (3, height, width)."
        )
    channels = infer_channel_dimension_format(array)
    if channels is ChannelDimension.FIRST:
        array = array.transpose(1, 2, 0)
    return to_pil_image(np.ascontiguousarray(array), do_rescale=False, input_data_format=ChannelDimension.LAST)


def fill_tiles(
    tiles: np.ndarray, image: Image.Image, cols: int, corner: tuple[int, int], mean: np.ndarray, std: np.ndarray
) -> None:
    """Lays an image on a black canvas and writes the canvas' tiles, in the original's order of operations.

    Args:
        tiles: Where to write, (num_tiles, 3, S, S), row by row.
        image: An RGB image.
        cols: Tiles in a row of the canvas.
        corner: The image's (top, left) on the canvas, in pixels.
        mean: Mean of each channel, (3,) float32.
        std: Standard deviation of each channel, (3,) float32.
    """
    side = tiles.shape[-1]
    black = (np.float32(0) - mean) / std
    for channel, plane in enumerate(image.split()):
        pixels = np.asarray(plane)
        # One plane of one tile at a time: it stays in the core's cache for all steps.
        for index, values in enumerate(tiles[:, channel]):
            row, col = divmod(index, cols)
            top, bottom = overlap(row * side, side, corner[0], image.height)
            left, right = overlap(col * side, side, corner[1], image.width)
            if (bottom - top, right - left) != (side, side):
                values[:] = black[channel]
            inside = values[top:bottom, left:right]
            down, across = row * side - corner[0], col * side - corner[1]
            shown = pixels[top + down : bottom + down, left + across : right + across]
            np.divide(shown, np.float32(255), out=inside, dtype=np.float32)
            inside -= mean[channel]
            inside /= std[channel]


def overlap(start: int, length: int, other_start: int, other_length: int) -> tuple[int, int]:
    """Returns where one stretch meets another, as (first, end) counted from its own start; equal if it does not."""
    first = min(max(other_start - start, 0), length)
    return first, max(first, min(other_start + other_length - start, length))


def usable_cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
