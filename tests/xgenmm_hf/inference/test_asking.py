"""Loading and asking as a library."""

import pytest
import torch
from PIL import Image

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.asking import ask, room_for_answer
from xgenmm_hf.inference.loading import load, pick_device
from xgenmm_hf.inference.prompts import build_messages, system_turn
from xgenmm_hf.modeling.chat_xgenmm import RELEASED_SYSTEM


IMAGES = [Image.new("RGB", (90, 40), (10, 200, 10)), Image.new("RGB", (30, 70), (0, 0, 99))]


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL, device="cpu")


def test_pieces_add_up_to_the_answer(loaded):
    pieces = []
    answer = ask(loaded, IMAGES, "What is this?", max_new_tokens=12, on_text=pieces.append)
    assert "".join(pieces).strip() == answer.text
    assert answer.text == ask(loaded, IMAGES, "What is this?", max_new_tokens=12).text


def test_the_limit_ends_an_answer(loaded):
    answer = ask(loaded, IMAGES[:1], "Describe this image.", max_new_tokens=1)
    assert answer.new_tokens == 1


def test_the_context_ends_an_answer(loaded):
    config = loaded.model.config
    context = config.text_config.max_position_embeddings
    assert room_for_answer(config, context - 3) == 3
    with pytest.raises(ValueError, match=f"context holds {context}"):
        room_for_answer(config, context)


def test_no_tokens_is_refused(loaded):
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        ask(loaded, IMAGES, "What?", max_new_tokens=0)


def test_images_come_before_the_text_and_the_system_turn_first():
    messages = build_messages(IMAGES, "What?", system="Be brief.")
    assert [message["role"] for message in messages] == ["system", "user"]
    assert [item["type"] for item in messages[1]["content"]] == ["image", "image", "text"]
    assert [message["role"] for message in build_messages([], "What?")] == ["user"]


def test_system_turns_by_name():
    names = (None, "none", "released", "Be brief.")
    assert [system_turn(name) for name in names] == [None, "", RELEASED_SYSTEM, "Be brief."]


def test_half_precision_checkpoints_compute_in_float32_on_the_cpu(loaded):
    assert loaded.model.dtype in (torch.float32, torch.bfloat16)
    assert not loaded.model.training
    assert load(TINY_MODEL, dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_unknown_dtypes_and_devices_are_refused():
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        load(TINY_MODEL, dtype="int8")
    for name in ("abacus", "meta", "cuda:99"):
        with pytest.raises(ValueError, match=name):
            pick_device(name)
