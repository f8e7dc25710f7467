import gc

import numpy as np
import pytest
import torch
from PIL import Image

from xgenmm_hf.modeling import tile_memory_xgenmm
from xgenmm_hf.modeling.image_processing_xgenmm import XGenMMImageProcessor
from xgenmm_hf.modeling.tile_memory_xgenmm import borrow


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(tile_memory_xgenmm, "_free", [])


def address(values):
    return values.__array_interface__["data"][0]


def test_memory_is_used_again_once_it_is_free():
    first = borrow(1000)
    place = address(first)
    del first
    again = borrow(900)
    assert address(again) == place
    assert again.shape == (900,)
    assert again.dtype == np.float32
    assert again.flags.writeable


@pytest.mark.parametrize(
    "share",
    [
        lambda values: values,
        lambda values: values[10:20],
        lambda values: values.reshape(10, 100)[3].T[2:],
        lambda values: memoryview(values[5:]),
        lambda values: torch.from_numpy(values[5:]),
        lambda values: torch.from_numpy(values.reshape(10, 100)).view(-1)[7:9],
        lambda values: torch.from_numpy(values).numpy()[1:],
    ],
)
def test_memory_that_anything_shares_is_not_used_again(share):
    values = borrow(1000)
    values[:] = 1
    kept, place = share(values), address(values)
    del values
    gc.collect()
    other = borrow(1000)
    other[:] = 2
    assert address(other) != place
    assert (np.asarray(kept) == 1).all()


def test_what_is_too_small_is_let_go():
    place = address(borrow(10))
    assert len(tile_memory_xgenmm._free) == 1
    larger = borrow(100_000)
    assert not tile_memory_xgenmm._free
    assert larger.size == 100_000
    assert address(larger) != place


def test_very_much_memory_is_not_kept(monkeypatch):
    monkeypatch.setattr(tile_memory_xgenmm, "MOST_BYTES", 4000)
    borrow(1000)
    assert len(tile_memory_xgenmm._free) == 1
    borrow(1001)
    assert not tile_memory_xgenmm._free


def test_one_block_is_kept_however_many_were_lent():
    blocks = [borrow(1000) for _ in range(5)]
    del blocks
    assert len(tile_memory_xgenmm._free) == 1


def test_tiles_of_one_call_are_safe_from_the_next():
    cut = XGenMMImageProcessor(size=32)
    images = [Image.effect_noise((40 + 9 * number, 50), 90) for number in range(4)]
    first = cut(images[0])["pixel_values"]
    before, tile = first.clone(), first[-1]
    del first
    for image in images:
        cut(image)
    assert torch.equal(tile, before[-1])
