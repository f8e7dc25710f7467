"""What image processing costs, counted: two resizes an image, no canvas, no copy of a tile, every core at work."""

import threading

import numpy as np
from PIL import Image

from xgenmm_hf import XGenMMImageProcessor
from xgenmm_hf.modeling import image_processing_xgenmm


def make_images(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8)) for _ in range(count)]


def test_two_resizes_a_image(monkeypatch):
    calls, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *args, **kwargs: calls.append(1) or resize(self, *args))
    cutter = XGenMMImageProcessor(size=32)
    cutter(make_images(6))
    assert len(calls) == 12
    del calls[:]
    cutter(make_images(6), image_aspect_ratio="none")
    assert len(calls) == 6


def test_tiles_are_written_into_one_array(monkeypatch):
    """No image is pasted on a canvas, no tile cropped, stacked or concatenated."""
    images = make_images(2)
    copies = ((np, "stack"), (np, "concatenate"), (Image, "new"), (Image.Image, "paste"), (Image.Image, "crop"))
    for module, name in copies:
        monkeypatch.setattr(module, name, None)
    values = XGenMMImageProcessor(size=32)(images, return_tensors="np")["pixel_values"]
    assert values.flags["C_CONTIGUOUS"] and values.dtype == np.float32


def test_images_share_all_cores(monkeypatch):
    monkeypatch.setattr(image_processing_xgenmm, "usable_cores", lambda: 3)
    together = threading.Barrier(3, timeout=20)
    seen, fill = set(), image_processing_xgenmm.fill_tiles

    def fill_together(*args):
        together.wait()  # passes only if three images are cut at the same time
        seen.add(threading.get_ident())
        return fill(*args)

    monkeypatch.setattr(image_processing_xgenmm, "fill_tiles", fill_together)
    XGenMMImageProcessor(size=32)(make_images(6))
    assert len(seen) == 3
