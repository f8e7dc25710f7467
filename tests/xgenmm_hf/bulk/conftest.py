"""Images to answer about, and an engine that answers without a model."""

import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from xgenmm_hf.bulk.engines import BulkGenerator


class Naming:
    """An engine whose answer to an image is its size and colour; it keeps the sizes of its batches."""

    def __init__(self):
        self.batches: list[int] = []

    def prepare(self, images):
        if any(image.width == 13 for row in images for image in row):
            raise ValueError("an image is 13 wide")
        return [[(image.size, image.getpixel((0, 0))) for image in row] for row in images]

    def answer(self, inputs):
        self.batches.append(len(inputs))
        return [str(row) for row in inputs]


@pytest.fixture
def naming() -> BulkGenerator:
    generator = BulkGenerator("no model", "What is shown?")
    generator._loaded = Naming()
    return generator


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A folder of 18 drawn images; one of them is damaged."""
    folder = tmp_path / "drawn"
    for number in range(18):
        source = random.Random(number)
        colours = [tuple(source.randrange(256) for _ in range(3)) for _ in range(2)]
        image = Image.new("RGB", (source.randint(30, 60), source.randint(30, 60)), colours[0])
        ImageDraw.Draw(image).ellipse((5, 5, 25, 25), fill=colours[1])
        path = folder / str(number % 2) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (folder / "1" / "007.png").write_bytes(b"damaged")
    return folder
