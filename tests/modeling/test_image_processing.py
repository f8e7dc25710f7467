"""The image processor: inputs it takes, options, bad images, its file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from xgenmm_hf import XGenMMImageProcessor


SIDE = 16


@pytest.fixture
def processor() -> XGenMMImageProcessor:
    return XGenMMImageProcessor(size=SIDE, anyres_grids=[[16, 32], [32, 16], [32, 32]])


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 45, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_every_form_of_a_image_gives_the_same(processor, image):
    expected = processor(images=[image])["pixel_values"]
    array = np.array(image)
    forms = [image, array, array.transpose(2, 0, 1), torch.from_numpy(array), [[image]], np.stack([array])]
    for form in forms:
        assert torch.equal(processor(images=form)["pixel_values"], expected)


def test_paths(processor, image, tmp_path):
    path = tmp_path / "image.png"
    image.save(path)
    expected = processor(images=image)["pixel_values"]
    for form in (str(path), path):
        assert torch.equal(processor(images=[form])["pixel_values"], expected)


def test_counts_sizes_and_values(processor, image):
    batch = processor(images=[image, image.resize((30, 31))], return_tensors="pt")
    assert batch["image_num_tiles"].tolist() == [3, 5]
    assert batch["image_sizes"].tolist() == [[20, 45], [31, 30]]
    assert batch["pixel_values"].shape == (8, 3, SIDE, SIDE) and batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_values"].abs().max() <= 1
    assert processor.get_number_of_image_patches(20, 45) == 3
    assert processor.get_number_of_image_patches(20, 45, {"image_aspect_ratio": "none"}) == 1


def test_many_images_equal_one_by_one(processor):
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 256, (*rng.integers(5, 90, 2), 3), dtype=np.uint8)) for _ in range(20)]
    together = processor(images=images)["pixel_values"]
    assert torch.equal(together, torch.cat([processor(images=one)["pixel_values"] for one in images]))


def test_letterbox_is_black_and_mean_and_std_apply(image):
    processor = XGenMMImageProcessor(
        size=SIDE, anyres_grids=[[32, 32]], image_mean=[0.0, 0.25, 0.5], image_std=[1.0, 0.5, 0.25]
    )
    tile = processor(images=image)["pixel_values"][1]
    assert tile[:, 0, 0].tolist() == [0.0, -0.5, -2.0]


def test_numpy_output(processor, image):
    assert isinstance(processor(images=image, return_tensors="np")["pixel_values"], np.ndarray)


def test_modes_other_than_rgb(processor):
    for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16"):
        assert processor(images=Image.new(mode, (40, 20)))["image_num_tiles"].tolist() == [3]


def truncated_image() -> Image.Image:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    return Image.open(io.BytesIO(buffer.getvalue()[:600]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (list, "images is empty"),
        (lambda: ["missing.png"], r"images\[0\] cannot be opened from 'missing.png'"),
        (lambda: [np.zeros((4, 4, 3), dtype=np.float32)], "type float32"),
        (lambda: [np.zeros((4, 4), dtype=np.uint8)], r"shape \(4, 4\)"),
        (lambda: [Image.new("RGB", (4, 4)), None], r"images\[1\] is a NoneType"),
        (lambda: [Image.new("RGB", (0, 4))], "must not be empty"),
        (lambda: [truncated_image()], r"images\[0\] cannot be read .*truncated"),
    ],
)
def test_bad_images(processor, images, message):
    with pytest.raises(ValueError, match=message):
        processor(images=images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_aspect_ratio": "squash"}, "must be one of anyres, none, pad"),
        ({"size": {"height": 16, "width": 20}}, "tiles are square"),
        ({"size": 16, "anyres_grids": [[16, 20]]}, "multiples of the tile size, 16"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        XGenMMImageProcessor(**options)


def test_saved_and_loaded(processor, image, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is XGenMMImageProcessor and loaded.to_dict() == processor.to_dict()
    assert torch.equal(loaded(images=image)["pixel_values"], processor(images=image)["pixel_values"])


def test_a_images_own_array_is_not_changed(processor, image):
    array = np.array(image)
    before = array.copy()
    processor(images=array)
    assert np.array_equal(array, before)


def test_legacy_api_images_of_different_tile_counts(processor, image):
    images = [image, image.resize((30, 31))]
    values = processor.preprocess(images, image_aspect_ratio="anyres")["pixel_values"]
    assert [tuple(tiles.shape) for tiles in values] == [(3, 3, SIDE, SIDE), (5, 3, SIDE, SIDE)]
