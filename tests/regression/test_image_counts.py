"""What image processing costs, counted: two resizes an image, no canvas, no copy of a tile."""

import numpy as np
from PIL import Image

from xgenmm_hf import XGenMMImageProcessor


def make_images(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8)) for _ in range(count)]


def test_two_resizes_per_image(monkeypatch):
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
