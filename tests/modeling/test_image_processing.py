"""The image processor: inputs it takes, options, bad images, its file."""

import io
import json
import pickle
import subprocess
import sys

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


def test_every_form_of_an_image_gives_the_same(processor, image):
    expected = processor(images=[image])["pixel_values"]
    array = np.array(image)
    floats = array.astype(np.float32) / 255
    forms = [image, array, array.transpose(2, 0, 1), torch.from_numpy(array), [[image]], np.stack([array])]
    forms += [floats, torch.from_numpy(floats).permute(2, 0, 1), array.astype(np.int64), [None, [None, image]]]
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
    found = processor(images=image, return_tensors="np")["pixel_values"]
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, processor(images=image, return_tensors="pt")["pixel_values"].numpy())


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
        (lambda: ["missing.png"], "There is no image at missing.png"),
        (lambda: [np.full((4, 4, 3), 2, dtype=np.float32)], "type float32 with values 2 to 2"),
        (lambda: [np.zeros((4, 4), dtype=np.uint8)], r"shape \(4, 4\)"),
        (lambda: [Image.new("RGB", (4, 4)), 7], r"images\[1\] is a int"),
        (lambda: [None, None], "images is empty"),
        (
            lambda: [Image.new("RGB", (1, 65_536))],
            "1 x 65536 pixels, which is too large: the limit of a side is 65535",
        ),
        (lambda: [Image.new("RGB", (0, 4))], "must not be empty"),
        (lambda: [truncated_image()], r"images\[0\] is damaged or cut short .*truncated"),
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
        ({"size": "384"}, "tiles are square"),
        ({"size": {"height": "16", "width": "16"}}, "tiles are square"),
        ({"size": True}, "tiles are square"),
        ({"anyres_grids": [None]}, "give a list of"),
        ({"anyres_grids": [[16.0, 32]]}, "give a list of"),
        ({"image_std": [0.5, 0, 0.5]}, "three numbers, each above 0"),
        ({"image_std": [0.5, float("nan"), 0.5]}, "three numbers"),
        ({"image_mean": [0.5, 0.5]}, "three numbers, each 0 or more"),
        ({"image_mean": "0.5"}, "three numbers"),
        ({"image_aspect_ratio": ["anyres"]}, "must be one of"),
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


def test_an_images_own_array_is_not_changed(processor, image):
    array = np.array(image)
    before = array.copy()
    processor(images=array)
    assert np.array_equal(array, before)


def test_legacy_api_images_of_different_tile_counts(processor, image):
    images = [image, image.resize((30, 31))]
    values = processor.preprocess(images, image_aspect_ratio="anyres")["pixel_values"]
    assert [tuple(tiles.shape) for tiles in values] == [(3, 3, SIDE, SIDE), (5, 3, SIDE, SIDE)]


def test_uint8_tiles_become_the_same_values(processor, image):
    small = processor(images=image, do_normalize=False)["pixel_values"]
    assert small.dtype == torch.uint8
    assert torch.equal((small.float() / 255 - 0.5) / 0.5, processor(images=image)["pixel_values"])


def test_the_way_trl_counts_tiles(processor, image):
    batch = processor(images=[[image], None, [image, image.resize((30, 31))]], crop_to_patches=True)
    assert batch["num_patches"].tolist() == [3, 3, 5]


def test_options_that_other_processors_have(processor, image):
    expected = processor(images=image)["pixel_values"]
    same = {"do_resize": True, "do_rescale": True, "size": {"height": SIDE, "width": SIDE}, "data_format": None}
    assert torch.equal(processor(images=image, **same)["pixel_values"], expected)
    with pytest.raises(TypeError, match="unexpected option 'image_aspect_ration'"):
        processor(images=image, image_aspect_ration="pad")
    for option in ({"do_resize": False}, {"size": 128}, {"image_mean": [0, 0, 0]}, {"rescale_factor": 1}):
        with pytest.raises(ValueError, match="is not supported in a call"):
            processor(images=image, **option)


def test_the_square_canvas_counts_against_the_limit_of_pixels(processor, monkeypatch):
    thin = Image.new("RGB", (1, 871))
    assert processor(images=thin, image_aspect_ratio="pad")["image_num_tiles"].tolist() == [1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert processor(images=thin)["image_num_tiles"].tolist() == [3]
    with pytest.raises(ValueError, match="needs a square canvas of 758641 pixels and the limit is 10000"):
        processor(images=thin, image_aspect_ratio="pad")


def test_an_error_of_a_batch_names_the_file(processor, image, tmp_path):
    image.save(tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    for bad in (str(tmp_path / "cut.png"), Image.open(tmp_path / "cut.png")):
        with pytest.raises(ValueError, match="cut.png is damaged"):
            processor(images=[tmp_path / "good.png", bad])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "384"}, "tiles are square"),
        ({"image_std": [0, 0, 0]}, "image_std"),
        ({"image_mean": [float("nan")] * 3}, "image_mean"),
    ],
)
def test_bad_values_of_a_saved_file(processor, tmp_path, fields, message):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    with pytest.raises(ValueError, match=message):
        AutoImageProcessor.from_pretrained(tmp_path)


WORKER = """
import atexit, pickle, sys
from PIL import Image

processor = pickle.loads(bytes.fromhex(sys.argv[1]))
images = [Image.new("RGB", (40, 20))] * 4
# runs when the interpreter shuts down and threads can no longer be started
atexit.register(lambda: print(processor(images)["image_num_tiles"].tolist(), flush=True))
"""


def test_a_pickled_processor_works_in_a_fresh_process_to_its_end(processor):
    code = [sys.executable, "-c", WORKER, pickle.dumps(processor).hex()]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[3, 3, 3, 3]", done.stderr
