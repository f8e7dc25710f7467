"""Images -> tiles, pixel by pixel as the original does, with Pillow and numpy alone.

Shapes: a call gives all tiles of all images flat, (num_tiles, 3, S, S) float32 in [-1, 1]. Sizes are
(height, width) in pixels.

Source: the released image processor (Pillow bicubic resizing, black letterbox, (u8 / 255 - mean) / std).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from .images_xgenmm import check_size, flatten, image_name, quoted, read_image
from .legacy_api_xgenmm import LegacyImageMixin
from .pixels_xgenmm import checked_images, cut_image
from .remote_code_xgenmm import AUTO_MAP
from .tiling_xgenmm import centre_in_square, checked_grids, checked_mode, default_grids, fit_into_grid, select_grids


# Options that this processor fixes. A call may pass these values, as calls for other models do, but no others.
FIXED = {
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": Image.Resampling.BICUBIC,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_center_crop": False,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": "cpu",
}


class XGenMMImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Options of a call in addition to the library's."""

    image_aspect_ratio: str | None  # "anyres", "none" or "pad"; default: the processor's
    crop_to_patches: bool | None  # whether to return `num_patches` too, the tiles per image (TRL sets this)


class XGenMMImageProcessor(LegacyImageMixin, BaseImageProcessor):
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

    Example:
        ```python
        >>> from PIL import Image
        >>> from xgenmm_hf import XGenMMImageProcessor
        >>> tiles = XGenMMImageProcessor()(Image.new("RGB", (640, 480)), return_tensors="pt")
        >>> tiles["pixel_values"].shape, tiles["image_sizes"], tiles["image_num_tiles"]
        (torch.Size([5, 3, 384, 384]), tensor([[480, 640]]), tensor([5]))
        ```
    """

    model_input_names = ["pixel_values", "image_sizes", "image_num_tiles"]
    valid_kwargs = XGenMMImagesKwargs
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
        self.anyres_grids = checked_grids(grids, self.size["height"], self.image_aspect_ratio)
        self.image_mean = checked_channels("image_mean", image_mean, lowest=0.0)
        self.image_std = checked_channels("image_std", image_std, lowest=1e-6)
        self.auto_map = {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}

    def __call__(
        self,
        images: Any,
        image_aspect_ratio: str | None = None,
        return_tensors: str | None = "pt",
        do_normalize: bool | None = True,
        crop_to_patches: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Cuts images into tiles.

        Args:
            images: An image or a (nested) list of images, each as `read_image` takes it: PIL images, arrays, tensors,
                paths, addresses, data URLs or base64. None in a list stands for no image.
            image_aspect_ratio: Mode of this call; default: the processor's.
            return_tensors: `"pt"` or `"np"`.
            do_normalize: False returns the tiles as uint8, a quarter of the bytes; the model normalises them on its
                device.
            crop_to_patches: Whether to return `num_patches` too, the tiles per image under TRL's name.
            **kwargs: The library's other options, accepted if they match what this processor does.

        Returns:
            `pixel_values` (num_tiles, 3, S, S), `image_sizes` (num_images, 2) as (height, width) and
            `image_num_tiles` (num_images,).

        Raises:
            TypeError: If an option is unknown.
            ValueError: If something is not an image or cannot be read, or an option has an unsupported value.
        """
        self._check_options(kwargs)
        mode = checked_mode(image_aspect_ratio or self.image_aspect_ratio)
        sources = flatten(images)
        if not sources:
            raise ValueError("images is empty; pass at least one image, or leave images out for a text-only prompt.")
        names = [image_name(source, f"images[{index}]") for index, source in enumerate(sources)]
        read = [read_image(source, name, allow_remote=True) for source, name in zip(sources, names, strict=True)]
        for image, name in zip(read, names, strict=True):
            check_size(image.height, image.width, name, padded=mode == "pad")
        tiles, sizes, num_tiles = self._cut_all(read, mode, normalize=do_normalize is not False)
        data = {"pixel_values": tiles, "image_sizes": sizes, "image_num_tiles": num_tiles}
        if crop_to_patches:
            data["num_patches"] = num_tiles
        return BatchFeature(data, tensor_type=return_tensors)

    def preprocess_tensor(self, images: Any, image_aspect_ratio: str | None = None) -> BatchFeature:
        """Cuts float images into tiles in torch, so that gradients reach the pixels.

        Resizing is torch's antialiased bicubic, and nothing is rounded to 256 levels: the tiles differ from those of a
        call by about 0.1 of 255 (docs/research.md).

        Args:
            images: A (3, height, width) or (num_images, 3, height, width) tensor with values in [0, 1], or a list of
                the former; on any device, in any floating-point type.
            image_aspect_ratio: Mode of this call; default: the processor's.

        Returns:
            `pixel_values` (num_tiles, 3, S, S), float32 or float64, with the images' graph; `image_sizes` (num_images,
            2) as (height, width) and `image_num_tiles` (num_images,); all on the images' device.

        Raises:
            ValueError: If something is not such a tensor, or holds values outside [0, 1].
        """
        mode = checked_mode(image_aspect_ratio or self.image_aspect_ratio)
        listed, side = checked_images(images), self.size["height"]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in listed]
        tiles = [
            cut_image(image, mode, grid, side, self.image_mean, self.image_std)
            for image, grid in zip(listed, self._grids(sizes, mode), strict=True)
        ]
        device = listed[0].device
        return BatchFeature(
            {
                "pixel_values": torch.cat(tiles),
                "image_sizes": torch.tensor(sizes, device=device),
                "image_num_tiles": torch.tensor([len(cut) for cut in tiles], device=device),
            }
        )

    def _check_options(self, options: dict[str, Any]) -> None:
        own = {**FIXED, "size": self.size, "image_mean": self.image_mean, "image_std": self.image_std}
        for name, value in options.items():
            if name not in XGenMMImagesKwargs.__annotations__:
                raise TypeError(
                    f"XGenMMImageProcessor got an unexpected option {name!r}; a call takes image_aspect_ratio, "
                    "return_tensors, do_normalize and crop_to_patches."
                )
            wanted = checked_size(value) if name == "size" and value is not None else value
            if isinstance(wanted, tuple):
                wanted = list(wanted)
            if wanted is not None and wanted != own.get(name):
                raise ValueError(
                    f"{name}={quoted(repr(value))} is not supported in a call: this processor always works with "
                    f"{own.get(name)!r}."
                )

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """Counts the tiles of an image (called patches by other models' processors).

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
            images_kwargs: Options of the call; only `image_aspect_ratio` is used.

        Returns:
            The number of tiles.
        """
        mode = checked_mode((images_kwargs or {}).get("image_aspect_ratio") or self.image_aspect_ratio)
        return self._count_tiles(self._grids([(height, width)], mode)[0])

    def _grids(self, sizes: list[tuple[int, int]], mode: str) -> list[list[int] | None]:
        """Returns the grid of each image as [width, height] in pixels; None in the one-tile modes."""
        if mode != "anyres":
            return [None] * len(sizes)
        grids = checked_grids(self.anyres_grids, self.size["height"])
        return list(select_grids(torch.tensor(sizes), grids).tolist())

    def _count_tiles(self, grid: list[int] | None) -> int:
        return 1 if grid is None else 1 + grid[0] * grid[1] // self.size["height"] ** 2

    def _cut_all(
        self, images: list[Image.Image], mode: str, normalize: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cuts all images, each into its own part of one array."""
        sizes = [(image.height, image.width) for image in images]
        grids = self._grids(sizes, mode)
        num_tiles = np.array([self._count_tiles(grid) for grid in grids])
        side = self.size["height"]
        tiles = np.empty((int(num_tiles.sum()), 3, side, side), dtype=np.float32 if normalize else np.uint8)
        parts = np.split(tiles, num_tiles.cumsum()[:-1])
        scale = (self.image_mean, self.image_std) if normalize else None
        for image, grid, part in zip(images, grids, parts, strict=True):
            fill_tiles(part[:1], self._one_tile(image, mode), 1, (0, 0), scale)
            if grid is not None:
                height, width, top, left = fit_into_grid(image.height, image.width, *grid)
                resized = image.resize((width, height), Image.Resampling.BICUBIC)
                fill_tiles(part[1:], resized, grid[0] // side, (top, left), scale)
        return tiles, np.array(sizes), num_tiles

    def _one_tile(self, image: Image.Image, mode: str) -> Image.Image:
        if mode == "pad" and image.width != image.height:
            side, top, left = centre_in_square(image.height, image.width)
            canvas = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in self.image_mean))
            canvas.paste(image, (left, top))
            image = canvas
        return image.resize((self.size["width"], self.size["height"]), Image.Resampling.BICUBIC)


def checked_size(size: Any) -> dict[str, int]:
    """Returns the tile size as `{"height": S, "width": S}`, or raises a ValueError if it is not square."""
    given = 384 if size is None else size
    sides = [given.get("height"), given.get("width")] if isinstance(given, Mapping) else [given, given]
    if sides[0] != sides[1] or type(sides[0]) is not int or sides[0] <= 0:
        raise ValueError(f'size is {size!r}; tiles are square: give {{"height": S, "width": S}} in pixels.')
    return {"height": int(sides[0]), "width": int(sides[0])}


def checked_channels(name: str, values: Any, lowest: float) -> list[float]:
    """Returns a mean or deviation of three channels, 0.5 by default, or raises a ValueError."""
    values = [0.5, 0.5, 0.5] if values is None else values
    is_list = isinstance(values, (list, tuple)) and len(values) == 3
    if not is_list or not all(isinstance(value, (int, float)) and lowest <= value < math.inf for value in values):
        above = "0 or more" if lowest == 0 else "above 0"
        raise ValueError(f"{name} is {quoted(repr(values))}; it must be three numbers, each {above}.")
    return list(values)


def fill_tiles(
    tiles: np.ndarray,
    image: Image.Image,
    cols: int,
    corner: tuple[int, int],
    scale: tuple[Sequence[float], Sequence[float]] | None,
) -> None:
    """Lays an image on a black canvas, `cols` tiles wide, with its (top, left) at `corner`, and writes the tiles.

    `tiles` is (num_tiles, 3, S, S), row by row: float32 with the channels' (mean, deviation) in `scale`, else uint8.
    """
    # in the original's order of operations
    side = tiles.shape[-1]
    for channel, plane in enumerate(image.split()):
        pixels = np.asarray(plane)
        mean, std = (np.float32(values[channel]) for values in scale or ((0, 0, 0), (1, 1, 1)))
        # One plane of one tile at a time: it stays in the core's cache for all steps.
        for index, values in enumerate(tiles[:, channel]):
            row, col = divmod(index, cols)
            top, bottom = overlap(row * side, side, corner[0], image.height)
            left, right = overlap(col * side, side, corner[1], image.width)
            if (bottom - top, right - left) != (side, side):
                values[:] = (0 - mean) / std
            inside = values[top:bottom, left:right]
            down, across = row * side - corner[0], col * side - corner[1]
            shown = pixels[top + down : bottom + down, left + across : right + across]
            if scale is None:
                inside[:] = shown
                continue
            np.divide(shown, np.float32(255), out=inside, dtype=np.float32)
            inside -= mean
            inside /= std


def overlap(start: int, length: int, other_start: int, other_length: int) -> tuple[int, int]:
    """Returns the overlap of an interval with another as (first, end) from its own start; equal if there is none."""
    first = min(max(other_start - start, 0), length)
    return first, max(first, min(other_start + other_length - start, length))
