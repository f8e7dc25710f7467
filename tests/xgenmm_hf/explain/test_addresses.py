"""Addresses of image tokens against the model: boxes, chunks and positions are what tower and resampler read."""

import random

import pytest
import torch
from PIL import Image

import xgenmm_hf
from xgenmm_hf import (
    XGenMMConfig,
    XGenMMForConditionalGeneration,
    XGenMMImageProcessor,
    XGenMMProcessor,
    image_token_addresses,
)


# as in the released models, patches do not fill their tile: 30 = 4 * 7 + 2
TILE, PATCH, SIDE, LATENTS = 30, 7, 4, 3
GRIDS = [[columns * TILE, rows * TILE] for columns, rows in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
# (height, width), each larger than its grid, so that a patch has pixels that no neighbour reads
SIZES = [(200, 112), (96, 232), (360, 440), (440, 360), (240, 800), (800, 240), (300, 300)]


def make_model(**fields) -> XGenMMForConditionalGeneration:
    torch.manual_seed(0)
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    resampler = {"num_latents": LATENTS, "depth": 1, "num_heads": 2, "head_dim": 8}
    config = XGenMMConfig(
        vision_config={**width, "image_size": TILE, "patch_size": PATCH},
        text_config={**width, "num_key_value_heads": 2, "vocab_size": 63, "pad_token_id": 0},
        resampler_config={**resampler, **fields.pop("resampler", {})},
        image_token_id=60,
        image_placeholder_token_id=61,
        end_of_chunk_token_id=62,
        **{"anyres_grids": GRIDS, **fields},
    )
    return XGenMMForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def random_image(height: int, width: int) -> torch.Tensor:
    """Returns noise of black and white, so that every pixel can be changed by much."""
    return (torch.rand(height, width, 3) > 0.5).to(torch.uint8) * 255


def reach(box: list[float]) -> tuple[float, float]:
    """Returns how far around a patch's box its pixels are read from, (x, y): bicubic takes two pixels each way."""
    left, top, right, bottom = box
    return 2 * max(1, (right - left) / PATCH) + 1, 2 * max(1, (bottom - top) / PATCH) + 1


def overlap(box: list[float], other: list[float], margin: tuple[float, float]) -> bool:
    (left, top, right, bottom), (x, y) = box, margin
    return other[0] < right + x and left - x < other[2] and other[1] < bottom + y and top - y < other[3]


@pytest.mark.parametrize("mode", ["anyres", "none", "pad"])
def test_pixels_in_a_box_change_that_patch_alone(mode):
    model = make_model(image_aspect_ratio=mode)
    embed = model.vision_tower.vision_model.embeddings.patch_embedding
    processor = XGenMMImageProcessor(mode, anyres_grids=GRIDS, size=TILE)
    images = [random_image(*size) for size in SIZES]

    def patch_inputs() -> torch.Tensor:
        with torch.no_grad():
            return embed(processor([Image.fromarray(image.numpy()) for image in images])["pixel_values"])

    addresses = image_token_addresses(SIZES, model.config)
    before, chosen = patch_inputs(), random.Random(1)
    assert before.shape[0] == len(addresses.tile_image) and before.shape[2:] == (SIDE, SIDE)
    patches = (~addresses.patch_letterbox).nonzero().tolist()
    tested = set()
    for tile, row, column in chosen.sample(patches, 40):
        image, box = int(addresses.tile_image[tile]), addresses.patch_box[tile, row, column].tolist()
        (height, width), (x, y) = SIZES[image], reach(box)
        left, top, right, bottom = round(box[0] + x), round(box[1] + y), round(box[2] - x), round(box[3] - y)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            continue
        tested.add(tile)
        part = images[image][top:bottom, left:right]
        part ^= 255
        changed = (patch_inputs() != before).any(1)
        part ^= 255
        assert changed[tile].nonzero().tolist() == [[row, column]]
        for other, *place in changed.nonzero().tolist():
            assert addresses.tile_image[other] == image
            around = addresses.patch_box[(other, *place)].tolist()
            assert overlap(around, [left, top, right, bottom], reach(around))
    assert len(tested) >= (10 if mode == "anyres" else 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_aspect_ratio": "anyres"},
        {"image_aspect_ratio": "anyres", "anyres_patch_sampling": False},
        {"image_aspect_ratio": "anyres", "resampler": {"letterbox_mask": False}},
        {"image_aspect_ratio": "none"},
    ],
    ids=["strips", "together", "without mask", "one tile"],
)
def test_a_patch_changes_the_tokens_of_its_chunk_alone(fields):
    model = make_model(**fields)
    addresses = image_token_addresses(SIZES, model.config)
    sizes, num_tiles = torch.tensor(SIZES), torch.bincount(addresses.tile_image)
    features = torch.randn(len(addresses.tile_image), SIDE**2, 16)

    def tokens() -> torch.Tensor:
        with torch.no_grad():
            return model.model.sample_tokens(features, sizes, num_tiles)

    before = tokens()
    assert before.shape[0] == len(addresses.token_chunk) == len(addresses.token_image) == len(addresses.token_latent)
    assert torch.equal(addresses.chunk_image[addresses.token_chunk], addresses.token_image)
    blind = 0
    for patch in random.Random(2).sample(range(features[..., 0].numel()), 60):
        features.view(-1, 16)[patch] *= -1
        changed = (tokens() != before).any(-1)
        features.view(-1, 16)[patch] *= -1
        chunks = ((addresses.chunk_patches == patch) & addresses.chunk_visible).any(1)
        assert torch.equal(changed, chunks[addresses.token_chunk])
        assert chunks.sum() <= 1
        blind += not chunks.any()
    masked = "resampler" not in fields and fields["image_aspect_ratio"] == "anyres"
    assert (blind > 0) == masked


def test_kinds_of_chunks():
    config = make_model().config
    assert image_token_addresses([(60, 60)], config).chunk_kind == ("overview", *["strip"] * 4)
    assert image_token_addresses([(60, 60)], config, image_num_tiles=torch.tensor([1])).chunk_kind == ("overview",)
    config.anyres_patch_sampling = False
    assert image_token_addresses([(60, 60)] * 2, config).chunk_kind == ("image",) * 2
    config.image_aspect_ratio = "pad"
    assert image_token_addresses([(60, 60)] * 2, config).chunk_kind == ("image",) * 2


def test_letterbox_patches_are_black():
    """White images: a patch is black where, and only where, none of its box lies in the image."""
    addresses = image_token_addresses(SIZES, make_model().config)
    processor = XGenMMImageProcessor(anyres_grids=GRIDS, size=TILE)
    tiles = processor([Image.new("RGB", (width, height), "white") for height, width in SIZES])["pixel_values"]
    cells = tiles[..., : SIDE * PATCH, : SIDE * PATCH].unflatten(-1, (SIDE, PATCH)).unflatten(-3, (SIDE, PATCH))
    black = (cells == -1).all(5).all(3).all(1)
    assert black.any() and torch.equal(black, addresses.patch_letterbox)


def test_positions_in_the_prompts_of_a_batch():
    processor = XGenMMProcessor.from_pretrained(xgenmm_hf.TINY_MODEL)
    config = XGenMMConfig.from_pretrained(xgenmm_hf.TINY_MODEL)
    images = [Image.new("RGB", size) for size in ((200, 90), (64, 64), (90, 300))]
    texts = ["<image>\nWhat is this?", "Look: <image> and <image>, which is taller?"]
    inputs = processor(images=images, text=texts, return_tensors="pt", padding=True, padding_side="left")
    addresses = image_token_addresses(inputs["image_sizes"], config, inputs["input_ids"])
    rows, places = addresses.token_position.unbind(1)
    assert (inputs["input_ids"][rows, places] == config.image_token_id).all()
    assert len(places) == (inputs["input_ids"] == config.image_token_id).sum()
    assert sorted({*zip(addresses.token_image.tolist(), rows.tolist(), strict=True)}) == [(0, 0), (1, 1), (2, 1)]
    for image in range(3):  # the tokens of an image lie next to each other
        own = places[addresses.token_image == image]
        assert torch.equal(own, torch.arange(own[0], own[0] + len(own)))
    with pytest.raises(ValueError, match="pass sizes and prompts of one processor call"):
        image_token_addresses(inputs["image_sizes"][:2], config, inputs["input_ids"])
