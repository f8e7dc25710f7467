"""vLLM's offline engine answers as `generate` does, token for token, on one device and on two."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_requests import CHATS, IMAGES, Generator
from peft import LoraConfig, get_peft_model

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.conversion.adapters import export_adapter


# Two logits of bfloat16 that differ by less than this are nearly tied: at 16 to 32 its numbers are 0.125 apart.
NEAR_TIE = 0.25


def assert_same(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for name, found, wanted in zip(CHATS, answers, expected, strict=True):
        assert found["prompt_ids"] == wanted["prompt_ids"], name
        assert found["ids"] == wanted["ids"], name


@pytest.fixture(scope="module")
def expected(requests) -> list[dict[str, Any]]:
    generator = Generator(TINY_MODEL)
    answers = [generator.answer(request) for request in requests]
    assert len({tuple(answer["ids"]) for answer in answers}) > len(answers) // 2  # they tell requests apart
    return answers


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """A LoRA adapter of every matrix of the language model, strong enough to change answers."""
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
    names = r".*language_model.*\.(qkv_proj|o_proj|gate_up_proj|down_proj)"
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=names))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder / "trained")
    export_adapter(folder / "trained", folder / "for_vllm")
    return folder


def test_one_device_together_alone_and_with_an_adapter(ask_vllm, requests, expected, adapter):
    adapted = [{**request, "adapter": str(adapter / "for_vllm")} for request in requests]
    alone = [[request] for request in requests]
    together, *each, changed = ask_vllm(TINY_MODEL, requests, *alone, adapted, enable_lora=True, max_lora_rank=8)
    assert_same(together, expected)
    assert_same([answers[0] for answers in each], expected)
    generator = Generator(TINY_MODEL, adapter=str(adapter / "trained"))
    wanted = [generator.answer(request) for request in requests]
    assert_same(changed, wanted)
    assert [answer["ids"] for answer in wanted] != [answer["ids"] for answer in expected]


def test_two_devices(ask_vllm, requests, expected):
    (answers,) = ask_vllm(TINY_MODEL, requests, tensor_parallel_size=2)
    assert_same(answers, expected)


@pytest.mark.parametrize("devices", [1, 2])
def test_bfloat16_differs_at_near_ties_only(ask_vllm, requests, devices, record_property):
    (answers,) = ask_vllm(TINY_MODEL, requests, dtype="bfloat16", tensor_parallel_size=devices)
    generator = Generator(TINY_MODEL, torch.bfloat16)
    ties = 0
    for name, request, found in zip(CHATS, requests, answers, strict=True):
        wanted = generator.answer(request)
        assert found["prompt_ids"] == wanted["prompt_ids"], name
        if found["ids"] == wanted["ids"]:
            continue
        pairs = zip(found["ids"], wanted["ids"], strict=False)
        place = next(place for place, (one, other) in enumerate(pairs) if one != other)
        logits = wanted["logits"][place]
        gap = float(logits.max() - logits[found["ids"][place]])
        assert gap <= NEAR_TIE, f"{name}: token {place} is {gap} below the best"
        ties += 1
    record_property("near_ties", ties)
    print(f"bfloat16, {devices} devices: {ties} of {len(answers)} answers differ, all at near ties")
    assert ties < len(answers) / 2


def test_a_sliding_window(ask_vllm, requests, expected, tmp_path):
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
    model.config.text_config.sliding_window = 40
    model.save_pretrained(tmp_path)
    XGenMMProcessor.from_pretrained(TINY_MODEL).save_pretrained(tmp_path)
    generator = Generator(tmp_path)
    wanted = [generator.answer(request) for request in requests]
    assert [answer["ids"] for answer in wanted] != [answer["ids"] for answer in expected]
    (answers,) = ask_vllm(tmp_path, requests)
    assert_same(answers, wanted)


def test_the_base_form(ask_vllm):
    """`<image>` alone and with placeholders is the same image: nothing is left behind it."""
    paths = [str(path) for path in sorted(IMAGES.glob("*.png"))[:3]]
    image_alone = "<image>"
    image_with_placeholders = "<image>" + "<image placeholder>" * 15
    texts = ("{0}A photo", "{0}A large star.<|endofchunk|>{0}", "{0}One.<|endofchunk|>{0}Two.<|endofchunk|>{0}The")
    requests = [
        {"prompt": text.format(form), "images": paths[: text.count("{0}")], "max_tokens": 32}
        for text in texts
        for form in (image_alone, image_with_placeholders)
    ]
    generator = Generator(TINY_BASE_MODEL)
    (answers,) = ask_vllm(TINY_BASE_MODEL, requests)
    for request, found in zip(requests, answers, strict=True):
        wanted = generator.answer(request)
        assert found["prompt_ids"] == wanted["prompt_ids"], request["prompt"]
        assert found["ids"] == wanted["ids"], request["prompt"]
    for alone, followed in zip(answers[::2], answers[1::2], strict=True):
        assert alone["ids"] == followed["ids"]
