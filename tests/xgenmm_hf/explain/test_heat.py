"""Geometry of the heat: what is put on a drawn dot in the resampler's order comes back on the dot.

The pixels come from the image processor, the strip order is built here with numpy reshapes, as the original does it.
"""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from xgenmm_hf import ImageAddresses, XGenMMConfig, XGenMMImageProcessor, image_token_addresses
from xgenmm_hf.explain.attention import coverage, heat_of_patches, heat_of_pixels


# 4 patches of 7 pixels in a tile of 30: the last 2 pixels belong to no patch, as in the released 384 = 27 * 14 + 6
TILE, PATCH, SIDE = 30, 7, 4
GRIDS = [[columns * TILE, rows * TILE] for columns, rows in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
# (height, width): for each grid per image wider and one taller than it
SIZES = {
    (1, 2, "wide"): (50, 28),
    (1, 2, "tall"): (58, 24),
    (2, 1, "wide"): (24, 58),
    (2, 1, "tall"): (28, 50),
    (2, 2, "wide"): (90, 110),
    (2, 2, "tall"): (110, 90),
    (3, 1, "wide"): (60, 200),
    (3, 1, "tall"): (80, 200),
    (1, 3, "wide"): (200, 80),
    (1, 3, "tall"): (200, 60),
}
SPOTS = list(itertools.product((0.12, 0.5, 0.88), (0.12, 0.5, 0.88)))


VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def make_config(**fields) -> XGenMMConfig:
    vision = {**VISION, "image_size": TILE, "patch_size": PATCH}
    return XGenMMConfig(
        **{"vision_config": vision, "image_aspect_ratio": "anyres", "anyres_grids": GRIDS, **fields},
    )


def image_with_dot(size: tuple[int, int], spot: tuple[float, float]) -> tuple[Image.Image, tuple[float, float]]:
    """Returns a black image with a white dot, and the dot's centre as (row, column)."""
    height, width = size
    image = Image.new("RGB", (width, height))
    row, column, radius = spot[0] * height, spot[1] * width, 0.06 * min(size)
    ImageDraw.Draw(image).ellipse((column - radius, row - radius, column + radius, row + radius), fill="white")
    return image, (row, column)


def patch_brightness(pixel_values: torch.Tensor) -> np.ndarray:
    """Returns how much of each patch is brighter than gray, (num_tiles, SIDE, SIDE)."""
    patches = torch.nn.functional.avg_pool2d(pixel_values.mean(1, keepdim=True).clamp_min(0), PATCH)
    return (patches.squeeze(1) ** 2).numpy()


def strips(grid: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Merges a grid's maps and cuts the merged map as the original does: row-major, never mind the tiles."""
    merged = grid.reshape(rows, columns, SIDE, SIDE).transpose(0, 2, 1, 3)
    return merged.reshape(rows * columns, SIDE * SIDE)


def grid_of(addresses: ImageAddresses) -> tuple[int, int]:
    """Returns (columns, rows) of an image's grid."""
    rows, columns = (addresses.tile_cell.amax(0) + 1).tolist()
    return columns, rows


def find_dot(config: XGenMMConfig, size, spot, arrange) -> tuple[np.ndarray, tuple[float, float], ImageAddresses]:
    """Puts attention on a dot, in the order that `arrange` makes, and returns the heat of the pixels."""
    image, dot = image_with_dot(size, spot)
    processor = XGenMMImageProcessor(config.image_aspect_ratio, anyres_grids=GRIDS, size=TILE)
    inputs = processor([image])
    addresses = image_token_addresses([size], config)
    assert len(addresses.tile_image) == int(inputs["image_num_tiles"])
    attention = torch.from_numpy(arrange(patch_brightness(inputs["pixel_values"]), addresses))[:, None]
    patches = heat_of_patches(addresses, attention, torch.ones(attention.shape[:2])).numpy()
    assert patches.sum() == pytest.approx(1)
    pixels, outside = heat_of_pixels(patches, addresses)
    assert pixels.shape == size
    assert pixels.min() >= 0
    assert pixels.sum() == pytest.approx(1)
    assert 0 <= outside < 0.5
    return pixels, dot, addresses


def in_strip_order(brightness: np.ndarray, addresses: ImageAddresses) -> np.ndarray:
    overview = brightness[:1].reshape(1, -1)
    return np.concatenate([overview, strips(brightness[1:], *grid_of(addresses))])


def distance(pixels: np.ndarray, dot: tuple[float, float], addresses: ImageAddresses) -> float:
    """Returns how far the heat's centre is from the dot, in overview patches (the coarsest there are)."""
    rows, columns = (np.arange(length) + 0.5 for length in pixels.shape)
    centre = (pixels.sum(1) @ rows, pixels.sum(0) @ columns)
    patch = (addresses.image_sizes[0] * PATCH / TILE).tolist()
    return max(abs(found - wanted) / size for found, wanted, size in zip(centre, dot, patch, strict=True))


@pytest.mark.parametrize("shape", SIZES, ids=lambda shape: "{}x{}-{}".format(*shape))
def test_heat_lands_on_the_dot(shape):
    columns, rows, direction = shape
    height, width = SIZES[shape]
    for spot in SPOTS:
        pixels, dot, addresses = find_dot(make_config(), (height, width), spot, in_strip_order)
        assert grid_of(addresses) == (columns, rows)
        assert (width / height > columns / rows) == (direction == "wide")
        assert distance(pixels, dot, addresses) < 0.5
        hottest = np.unravel_index(pixels.argmax(), pixels.shape)
        assert abs(hottest[0] - dot[0]) < height * PATCH / TILE
        assert abs(hottest[1] - dot[1]) < width * PATCH / TILE


def test_grid_alone_lands_on_the_dot():
    """Without the overview's help."""

    def grid_alone(brightness, addresses):
        brightness[0] = 0
        return in_strip_order(brightness, addresses)

    for size, spot in itertools.product(SIZES.values(), SPOTS):
        pixels, dot, addresses = find_dot(make_config(), size, spot, grid_alone)
        assert distance(pixels, dot, addresses) < 0.5


def test_tile_order_would_miss():
    """The tests above tell the strip order from the order of tiles."""

    def in_tile_order(brightness, addresses):
        brightness[0] = 0
        return brightness.reshape(len(brightness), -1)

    missed = [find_dot(make_config(), (110, 90), spot, in_tile_order) for spot in SPOTS]
    assert sum(distance(*found) > 0.5 for found in missed) >= 4
    assert max(distance(*found) for found in missed) > 2


def test_fixed_sampling():
    def joined(brightness, addresses):
        patches = in_strip_order(brightness, addresses).reshape(1, -1)
        return np.pad(patches, ((0, 0), (0, 5 * SIDE**2 - patches.shape[1])), constant_values=9.0)

    for size in SIZES.values():
        pixels, dot, addresses = find_dot(make_config(anyres_patch_sampling=False), size, (0.2, 0.8), joined)
        assert distance(pixels, dot, addresses) < 0.5


@pytest.mark.parametrize("mode", ["none", "pad"])
def test_one_tile(mode):
    for size, spot in itertools.product([(60, 60), (50, 120), (120, 50)], SPOTS):
        pixels, dot, addresses = find_dot(
            make_config(image_aspect_ratio=mode), size, spot, lambda b, _: b.reshape(1, -1)
        )
        assert len(addresses.tile_image) == 1
        # a square canvas makes patches of the longer side's size
        longest = max(size) if mode == "pad" else None
        scale = 1 if longest is None else longest / min(size)
        assert distance(pixels, dot, addresses) < 0.5 * scale


def test_padding_is_counted():
    """Where an image fills half of its square canvas, even heat lies half outside."""
    config = make_config(image_aspect_ratio="pad", vision_config={**VISION, "image_size": 16, "patch_size": 4})
    pixels, outside = heat_of_pixels(np.full((1, 4, 4), 1 / 16), image_token_addresses([(32, 64)], config))
    assert outside == pytest.approx(0.5)
    assert pixels == pytest.approx(np.full((32, 64), 1 / (32 * 64)))


def test_letterbox_gets_no_heat():
    """Attention on masked patches is the softmax's leftover and no heat."""
    config = make_config()
    even = torch.full((5, 1, SIDE**2), 1 / SIDE**2)
    patches = heat_of_patches(image_token_addresses([SIZES[2, 2, "wide"]], config), even, torch.ones(5, 1)).numpy()
    assert np.count_nonzero(patches[0]) == SIDE**2
    assert np.count_nonzero(patches[1:]) < 4 * SIDE**2
    assert patches[1, 0].sum() == 0 and patches[3, -1].sum() == 0


def test_no_attention_at_all():
    addresses = image_token_addresses([(8, 8)], make_config(image_aspect_ratio="none"))
    pixels, outside = heat_of_pixels(np.zeros((1, 4, 4)), addresses)
    assert pixels.sum() == outside == 0


def test_coverage_splits_pixels():
    edges = np.array([[0, 1.5], [1.5, 3], [3, 4.5]])
    assert coverage(edges, 4) * 1.5 == pytest.approx(
        np.array([[1, 0.5, 0, 0], [0, 0.5, 1, 0], [0, 0, 0, 1]], dtype=float)
    )
