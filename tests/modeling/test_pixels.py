"""Tiles of float tensors: as near to the exact path as resizing without rounding can be, and with gradients."""

import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

import xgenmm_hf
from xgenmm_hf import XGenMMForConditionalGeneration, XGenMMImageProcessor, load


GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "images"
CASES = json.loads((GOLDEN / "images.json").read_text())["cases"]
RESEARCH = Path(__file__).parents[2] / "docs" / "research.md"
SHIPPED = Path(xgenmm_hf.TINY_MODEL).parent / "images"
FIRST_RELEASE = {
    "size": 378,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# Older releases resize in another order of axes; docs/versions.md
NEEDS_PILLOW_13 = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="recorded with Pillow 13")


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def distance(processor: XGenMMImageProcessor, mode: str) -> tuple[float, float]:
    """Returns mean and largest distance to the exact path on the golden images, in 255ths."""
    std = torch.tensor(processor.image_std).view(3, 1, 1)
    found = []
    for case in CASES:
        image = Image.open(GOLDEN / case["file"])
        exact = processor([image], image_aspect_ratio=mode)
        tiles = processor.preprocess_tensor(as_tensor(image), image_aspect_ratio=mode)
        for name in ("image_sizes", "image_num_tiles"):
            assert torch.equal(tiles[name], exact[name])
        found.append(((tiles["pixel_values"] - exact["pixel_values"]) * std * 255).abs().flatten().double())
    values = torch.cat(found)
    return float(values.mean()), float(values.max())


@NEEDS_PILLOW_13
@pytest.mark.parametrize("mode", ["anyres", "none", "pad"])
@pytest.mark.parametrize("options", [{}, FIRST_RELEASE], ids=["released", "first release"])
def test_distance_to_the_exact_path_is_the_stated_one(options, mode):
    mean, largest = distance(XGenMMImageProcessor(**options), mode)
    row = f"| {options.get('size', 384)} | `{mode}` | {mean:.2f} | {largest:.1f} |"
    assert row in RESEARCH.read_text(encoding="utf-8")
    assert mean < 0.15 and largest < 1.2


def test_a_batch_a_list_and_half_precision():
    processor = XGenMMImageProcessor(size=32)
    batch = torch.rand(2, 3, 40, 70)
    tiles = processor.preprocess_tensor(batch)
    assert torch.equal(processor.preprocess_tensor([batch[0], batch[1]])["pixel_values"], tiles["pixel_values"])
    other = processor.preprocess_tensor([batch[0], torch.rand(3, 90, 20)])
    assert other["image_sizes"].tolist() == [[40, 70], [90, 20]]
    assert other["pixel_values"].shape[0] == other["image_num_tiles"].sum()
    half = processor.preprocess_tensor(batch.bfloat16())["pixel_values"]
    assert (
        half.dtype == torch.float32
        and processor.preprocess_tensor(batch.double())["pixel_values"].dtype == torch.double
    )
    torch.testing.assert_close(half, tiles["pixel_values"], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "type torch.uint8"),
        (torch.zeros(8, 8, 3), r"shape \(8, 8, 3\)"),
        (torch.full((3, 8, 8), 1.5), "must be in"),
        (torch.full((3, 8, 8), float("nan")), "must be in"),
        ([Image.new("RGB", (8, 8))], "call the image processor itself"),
        ([], "images is empty"),
    ],
)
def test_what_is_no_float_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        XGenMMImageProcessor().preprocess_tensor(images)


@pytest.mark.parametrize("mode", ["anyres", "none", "pad"])
def test_gradients_of_tiles_are_the_numerical_ones(mode):
    processor = XGenMMImageProcessor(mode, size=8)
    image = (torch.rand(3, 9, 14, dtype=torch.double) * 0.5 + 0.25).requires_grad_()
    assert torch.autograd.gradcheck(lambda pixels: processor.preprocess_tensor(pixels)["pixel_values"], (image,))


@pytest.mark.parametrize("kind", ["siglip_vision_model", "clip_vision_model"])
def test_gradients_of_image_tokens_are_the_numerical_ones(make_model, kind):
    model = make_model(vision={"model_type": kind}).double().requires_grad_(False)
    processor = XGenMMImageProcessor(size=16, anyres_grids=model.config.anyres_grids)

    def tokens(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat(model.get_image_features(**processor.preprocess_tensor(pixels)).pooler_output)

    image = (torch.rand(3, 11, 20, dtype=torch.double) * 0.5 + 0.25).requires_grad_()
    assert torch.autograd.gradcheck(tokens, (image,), fast_mode=True)


@pytest.fixture
def loss_of(make_config):
    """Returns a function from a model to a function from pixels to the loss of a prompt with that image."""

    def of(model):
        processor = XGenMMImageProcessor(size=16, anyres_grids=model.config.anyres_grids)

        def loss(pixels: torch.Tensor) -> torch.Tensor:
            images = processor.preprocess_tensor(pixels)
            count = int(images["image_num_tiles"].sum()) * 4
            ids = torch.cat([torch.arange(5, 9), torch.full((count,), 100), torch.arange(9, 14)])[None]
            return model(input_ids=ids, labels=ids, **images).loss

        return loss

    return of


def gradient(loss, image: torch.Tensor) -> torch.Tensor:
    pixels = image.clone().requires_grad_()
    loss(pixels).backward()
    return pixels.grad


@pytest.mark.parametrize("text_conditioned", [False, True], ids=["released", "first release"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_pass_frozen_parts_and_checkpointing(make_model, loss_of, reentrant, text_conditioned):
    model = make_model()
    if text_conditioned:
        config = model.config
        config.resampler_config.text_conditioned = True
        model = XGenMMForConditionalGeneration._from_config(config)
    model.train().requires_grad_(False)
    image = torch.rand(3, 20, 33)
    plain = gradient(loss_of(model), image)
    assert plain.abs().sum() > 0 and (plain != 0).float().mean() > 0.9
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.testing.assert_close(gradient(loss_of(model), image), plain)
    # a step along the gradient changes the loss as the gradient says
    step = plain / plain.norm() * 0.01
    with torch.no_grad():
        rise = loss_of(model)((image + step).clamp(0, 1)) - loss_of(model)((image - step).clamp(0, 1))
    assert rise > 0
    half = gradient(loss_of(model.bfloat16()), image)
    assert half.isfinite().all()
    assert torch.nn.functional.cosine_similarity(half.flatten(), plain.flatten(), dim=0) > 0.9


def test_the_embedded_model_answers_the_same():
    """The shipped images, each with its question."""
    loaded = load(xgenmm_hf.TINY_MODEL, dtype="float32", device="cpu")
    for row in json.loads((SHIPPED / "images.json").read_text(encoding="utf-8")):
        image = Image.open(SHIPPED / row["image"]).convert("RGB")
        content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        text = loaded.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = loaded.processor(images=[image], text=text, return_tensors="pt")
        tiles = loaded.processor.image_processor.preprocess_tensor(as_tensor(image))
        with torch.inference_mode():
            answers = [
                loaded.model.generate(**one, max_new_tokens=12, do_sample=False)
                for one in (inputs, {**inputs, **tiles})
            ]
        assert torch.equal(*answers)
