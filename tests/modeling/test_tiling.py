"""The geometry equals a plain one-image-at-a-time reading of the original."""

import random

import pytest
import torch

from xgenmm_hf.modeling.tiling_xgenmm import (
    count_image_tokens,
    count_tiles,
    default_grids,
    fit_into_grid,
    select_grids,
    tile_layout,
)


TWELVE_TILE_GRIDS = [(384 * cols, 384 * rows) for cols in range(1, 5) for rows in range(1, 5) if 1 < cols * rows <= 12]
DEFAULT_ANYRES_GRIDS = ((384, 768), (768, 384), (768, 768), (1152, 384), (384, 1152))
SIDE = 5


def plain_grid(width: int, height: int, grids) -> tuple[int, int]:
    """The best grid of one image, in Python numbers."""
    ranking = []
    for order, (grid_width, grid_height) in enumerate(grids):
        scale = min(grid_width / width, grid_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        ranking.append((-effective, grid_width * grid_height - effective, order))
    return grids[min(ranking)[2]]


def plain_layout(width: int, height: int, cols: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Source indices and mask of one image: merge the tiles' maps, mask the letterbox, cut the flat map."""
    overview = torch.arange(SIDE * SIDE)
    tiles = torch.arange(SIDE * SIDE, (1 + rows * cols) * SIDE * SIDE).view(rows, cols, SIDE, SIDE)
    merged = tiles.permute(0, 2, 1, 3).reshape(rows * SIDE, cols * SIDE)
    mask = torch.ones_like(merged, dtype=torch.bool)
    map_height, map_width = merged.shape
    if width / height > map_width / map_height:
        margin = (map_height - int(height * (map_width / width))) // 2
        mask[:margin] = False
        mask[map_height - margin :] = False
    else:
        margin = (map_width - int(width * (map_height / height))) // 2
        mask[:, :margin] = False
        mask[:, map_width - margin :] = False
    source = torch.cat([overview[None], merged.reshape(-1, SIDE * SIDE)])
    visible = torch.cat([torch.ones(1, SIDE * SIDE, dtype=torch.bool), mask.reshape(-1, SIDE * SIDE)])
    return source, visible


def random_sizes(count: int) -> list[tuple[int, int]]:
    rng = random.Random(0)
    sizes = [(1, 1), (1, 4000), (4000, 1), (384, 384), (385, 384), (768, 384), (2000, 2000), (50, 40)]
    return sizes + [(rng.randint(1, 3000), rng.randint(1, 3000)) for _ in range(count)]


@pytest.mark.parametrize("grids", [DEFAULT_ANYRES_GRIDS, TWELVE_TILE_GRIDS], ids=["released", "twelve"])
def test_grids_and_tile_counts(grids):
    sizes = random_sizes(2000)
    chosen = select_grids(torch.tensor([(height, width) for width, height in sizes]), [list(grid) for grid in grids])
    expected = [plain_grid(width, height, grids) for width, height in sizes]
    assert [tuple(grid) for grid in chosen.tolist()] == expected
    counts = count_tiles(torch.tensor([(height, width) for width, height in sizes]), grids, 384)
    assert counts.tolist() == [1 + (width // 384) * (height // 384) for width, height in expected]


@pytest.mark.parametrize("grids", [DEFAULT_ANYRES_GRIDS, TWELVE_TILE_GRIDS], ids=["released", "twelve"])
def test_strip_order_and_mask_of_many_images_at_once(grids):
    sizes = random_sizes(200)
    chosen = [plain_grid(width, height, grids) for width, height in sizes]
    tiles = torch.tensor([(width // 384, height // 384) for width, height in chosen])
    counts = 1 + tiles.prod(1)
    counts[3] = 1  # an image that was not tiled
    layout = tile_layout(
        torch.tensor([(height, width) for width, height in sizes]), counts, int(counts.sum()), tiles, SIDE
    )
    start = 0
    for (width, height), (cols, rows), count in zip(sizes, tiles.tolist(), counts.tolist(), strict=True):
        source, visible = plain_layout(width, height, cols, rows)
        assert torch.equal(layout.source[start : start + count], source[:count] + start * SIDE * SIDE)
        assert torch.equal(layout.visible[start : start + count], visible[:count])
        start += count


def test_default_grids_scale_with_the_tile():
    assert tuple(tuple(grid) for grid in default_grids(384)) == DEFAULT_ANYRES_GRIDS
    assert default_grids(62) == [[62, 124], [124, 62], [124, 124], [186, 62], [62, 186]]


def test_no_letterbox_without_need():
    layout = tile_layout(torch.tensor([(768, 768)]), torch.tensor([5]), 5, torch.tensor([(2, 2)]), SIDE)
    assert layout.visible.all()


def test_strips_are_not_tiles():
    """The released weights read horizontal strips of the merged map; natural tile order would be the identity."""
    layout = tile_layout(torch.tensor([(768, 768)]), torch.tensor([5]), 5, torch.tensor([(2, 2)]), SIDE)
    assert layout.source[1].tolist() != list(range(SIDE * SIDE, 2 * SIDE * SIDE))
    assert sorted(layout.source.flatten().tolist()) == list(range(5 * SIDE * SIDE))


def test_fit_into_grid():
    assert fit_into_grid(480, 640, 768, 768) == (576, 768, 96, 0)
    assert fit_into_grid(1000, 333, 384, 1152) == (1152, 384, 0, 0)
    for width, height in random_sizes(300):
        new_height, new_width, top, left = fit_into_grid(height, width, 768, 768)
        assert 1 <= new_height <= 768 and 1 <= new_width <= 768 and top >= 0 and left >= 0


def test_token_counts():
    assert count_image_tokens(5, 128) == 640
    assert count_image_tokens(5, 128, patch_sampling=False) == 128
