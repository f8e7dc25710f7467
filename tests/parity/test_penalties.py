"""Legacy calls with options that depend on what counts as the prompt: the tokens of the original, images included."""

import json

import pytest
import torch
from golden_cases import GOLDEN
from PIL import Image
from safetensors.torch import load_file

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMImageProcessor
from xgenmm_hf.conversion import convert_state_dict


FOLDER = GOLDEN / "penalty"
CASE = json.loads((FOLDER / "case.json").read_text())


@pytest.fixture(scope="module")
def model():
    config = XGenMMConfig.from_pretrained(FOLDER / "checkpoint")
    built = XGenMMForConditionalGeneration._from_config(config, attn_implementation="eager")
    built.load_state_dict(convert_state_dict(load_file(FOLDER / "checkpoint" / "model.safetensors"), config))
    return built.eval()


@pytest.fixture(scope="module")
def prompt(model):
    """The batch as the original's notebooks pass it."""
    cut = XGenMMImageProcessor(size=model.config.tile_size, anyres_grids=model.config.anyres_grids)
    images = [
        [Image.open(FOLDER / f"image{row}_{index}.png") for index in range(len(sizes))]
        for row, sizes in enumerate(CASE["image_sizes_width_height"])
    ]
    tiles = [
        [cut.preprocess([image], image_aspect_ratio="anyres")["pixel_values"] for image in group] for group in images
    ]
    return {
        "pixel_values": tiles,
        "image_size": [[image.size for image in group] for group in images],
        "input_ids": torch.tensor(CASE["input_ids"]),
        "attention_mask": torch.tensor(
            [[int(token != CASE["pad_token_id"]) for token in row] for row in CASE["input_ids"]]
        ),
        **{name: CASE[name] for name in ("max_new_tokens", "eos_token_id", "pad_token_id")},
        "do_sample": False,
    }


@pytest.mark.parametrize("call", CASE["calls"], ids=lambda call: json.dumps(call["options"]))
def test_new_tokens_are_the_originals(model, prompt, call):
    found = model.generate(**prompt, **call["options"]).tolist()
    end = CASE["eos_token_id"]
    for row, wanted in zip(found, call["new_tokens"], strict=True):
        length = row.index(end) + 1 if end in row else len(row)
        assert row[:length] == wanted[:length]


def test_native_calls_have_the_librarys_meaning(model):
    """The penalty counts the prompt's tokens in a native call, and only the new ones in a legacy call."""
    ids = torch.tensor([CASE["calls"][0]["new_tokens"][1]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": 59}
    native = model.generate(input_ids=ids, **options, do_sample=False, repetition_penalty=2.0)
    legacy = model.generate(
        input_ids=ids, pixel_values=None, image_size=None, **options, do_sample=False, repetition_penalty=2.0
    )
    assert native[:, : ids.shape[1]].equal(ids)
    assert native[0, ids.shape[1] :].tolist() != legacy[0].tolist()
    assert not set(native[0, ids.shape[1] :].tolist()[:4]) & set(ids[0].tolist())
