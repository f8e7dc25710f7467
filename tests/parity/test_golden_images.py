"""The image processor's tiles equal the original's, pixel by pixel."""

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from xgenmm_hf import XGenMMImageProcessor


FOLDER = Path(__file__).parents[1] / "fixtures" / "golden" / "images"
CASES = json.loads((FOLDER / "images.json").read_text())["cases"]
SIDE = 384
# Python 3.10 has no newer one; see docs/versions.md.
pytestmark = pytest.mark.xfail(
    int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 rounds bicubic resizing otherwise", strict=False
)


def expected_tiles(case: dict, mode: str) -> torch.Tensor:
    tall = np.array(Image.open(FOLDER / case[mode]["file"]))
    tiles = torch.from_numpy(tall.reshape(-1, SIDE, SIDE, 3)).permute(0, 3, 1, 2)
    return (tiles.float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize("mode", ["anyres", "none", "pad"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_tiles_are_identical(case, mode):
    image = Image.open(FOLDER / case["file"])
    batch = XGenMMImageProcessor(image_aspect_ratio=mode)(images=[image], return_tensors="pt")
    assert batch["image_num_tiles"].tolist() == [case[mode]["num_tiles"]]
    assert torch.equal(batch["pixel_values"], expected_tiles(case, mode))


def test_images_of_one_call_keep_their_order():
    images = [Image.open(FOLDER / case["file"]) for case in CASES]
    batch = XGenMMImageProcessor()(images=images, return_tensors="pt")
    expected = torch.cat([expected_tiles(case, "anyres") for case in CASES])
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["image_sizes"].tolist() == [[image.height, image.width] for image in images]


def test_legacy_api_shapes():
    processor = XGenMMImageProcessor()
    image = Image.open(FOLDER / CASES[0]["file"])
    tiled = processor.preprocess([image], image_aspect_ratio="anyres", return_tensors="pt")["pixel_values"]
    assert torch.equal(tiled[0], expected_tiles(CASES[0], "anyres"))
    flat = processor.preprocess([image, image], return_tensors="pt")["pixel_values"]
    assert flat.shape == (1, 2, 1, 3, SIDE, SIDE)
    assert torch.equal(flat[0, 0], expected_tiles(CASES[0], "none"))
