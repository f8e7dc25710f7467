"""The first release (r-v1): its resampler reads the prompt. Numbers are the original code's."""

import json
from functools import cache

import pytest
import torch
from golden_cases import GOLDEN
from safetensors.torch import load_file

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration
from xgenmm_hf.conversion import convert_state_dict


FOLDER = GOLDEN / "first_release"
TOLERANCE = 1e-5
CASE = json.loads((FOLDER / "case.json").read_text())
SAMPLES = range(len(CASE["samples"]))
# prompts of 13 tokens, and of more than the 256 that are read with an image
SHORT, LONG, MIXED = [0, 1, 2, 3], [4, 5], [1, 4, 3]
OPTIONS = {name: CASE[name] for name in ("max_new_tokens", "eos_token_id", "pad_token_id")} | {"do_sample": False}


@cache
def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / name)


def build(attention: str = "sdpa", **resampler) -> XGenMMForConditionalGeneration:
    config = XGenMMConfig.from_pretrained(FOLDER / "checkpoint")
    for name, value in resampler.items():
        setattr(config.resampler_config, name, value)
    model = XGenMMForConditionalGeneration._from_config(config, attn_implementation=attention)
    model.load_state_dict(convert_state_dict(tensors("checkpoint/model.safetensors"), config))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> XGenMMForConditionalGeneration:
    return build()


def batch(indices: list[int], side: str = "left") -> dict[str, torch.Tensor]:
    """Returns samples as one padded batch."""
    rows = []
    for index in indices:
        length = len(tensors("inputs.safetensors")[f"pixels.{index}"]) * CASE["num_vision_tokens"]
        ids = CASE["samples"][index]["input_ids"]
        rows.append([id for id in ids for _ in range(length if id == CASE["image_token_id"] else 1)])
    longest = max(map(len, rows))

    def pad(row: list[int], fill: int) -> list[int]:
        padding = [fill] * (longest - len(row))
        return padding + row if side == "left" else row + padding

    tiles = [tensors("inputs.safetensors")[f"pixels.{index}"] for index in indices]
    sizes = [CASE["samples"][index]["image_size"] for index in indices]
    return {
        "input_ids": torch.tensor([pad(row, CASE["pad_token_id"]) for row in rows]),
        "attention_mask": torch.tensor([pad([1] * len(row), 0) for row in rows]),
        "pixel_values": torch.cat(tiles),
        "image_sizes": torch.tensor([(height, width) for width, height in sizes]),
        "image_num_tiles": torch.tensor([len(image) for image in tiles]),
    }


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits(attention):
    model = build(attention)
    for index in SAMPLES:
        with torch.no_grad():
            close(model(**batch([index])).logits[0], tensors("expected.safetensors")[f"logits.{index}"])


def test_vision_tokens_need_the_prompt(model):
    for index in SAMPLES:
        inputs = batch([index])
        prompt = {"prompt_ids": inputs.pop("input_ids"), "prompt_mask": inputs.pop("attention_mask")}
        forms = [prompt]
        if index in (0, 5):
            forms.append({"prompt_ids": torch.tensor([CASE["samples"][index]["input_ids"]])})  # one token per image
            forms.append({"prompt_embeds": model.get_input_embeddings()(prompt["prompt_ids"])})
        for form in forms:
            with torch.no_grad():
                tokens = model.get_image_features(**inputs, **form).pooler_output
            close(tokens[0], tensors("expected.safetensors")[f"vision_tokens.{index}"])
    with pytest.raises(ValueError, match="reads images together with the prompt"):
        model.get_image_features(**inputs)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_batch_equals_the_row_alone(model, side):
    inputs = batch(MIXED, side)
    with torch.no_grad():
        logits = model(**inputs).logits
    for index, row, mask in zip(MIXED, logits, inputs["attention_mask"], strict=True):
        close(row[mask.bool()], tensors("expected.safetensors")[f"logits.{index}"])


def test_text_only_rows_stay_themselves(model):
    inputs = batch([1])
    text = torch.randint(3, 250, inputs["input_ids"].shape, generator=torch.Generator().manual_seed(0))
    mixed = {
        **inputs,
        "input_ids": torch.cat([text, inputs["input_ids"]]),
        "attention_mask": torch.ones(2, text.shape[1], dtype=torch.long),
    }
    with torch.no_grad():
        logits = model(**mixed).logits
        close(logits[0], model(input_ids=text).logits[0])
    close(logits[1], tensors("expected.safetensors")["logits.1"])


def generate(model: XGenMMForConditionalGeneration, indices: list[int], **options) -> list[list[int]]:
    inputs = batch(indices)
    return model.generate(**inputs, **OPTIONS, **options)[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("indices", [SHORT, LONG, MIXED])
def test_generated_tokens(model, indices):
    for index, answer in zip(indices, generate(model, indices), strict=True):
        expected = CASE["samples"][index]["generated"]
        assert answer[: len(expected)] == expected


def test_beams_of_a_batch_are_those_of_each_row_alone(model):
    for index, answer in zip(MIXED, generate(model, MIXED, num_beams=2), strict=True):
        (expected,) = generate(model, [index], num_beams=2)
        assert answer[: len(expected)] == expected


def test_generation_from_embeddings(model):
    inputs = batch([0])
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    output = model.generate(inputs_embeds=embeds, **inputs, **OPTIONS)
    assert output[0].tolist() == CASE["samples"][0]["generated"]


@pytest.mark.parametrize("nested", [False, True])
def test_call_of_its_model_card(model, nested):
    """`image_size=[image.size]`, not nested, as the published card writes it."""
    for index in (0, 1):
        sample, tiles = CASE["samples"][index], tensors("inputs.safetensors")[f"pixels.{index}"]
        size = tuple(sample["image_size"])
        output = model.generate(
            pixel_values=tiles[None],
            image_size=[[size]] if nested else [size],
            input_ids=torch.tensor([sample["input_ids"]]),
            attention_mask=torch.ones(1, len(sample["input_ids"]), dtype=torch.long),
            top_p=None,
            num_beams=1,
            **OPTIONS,
        )
        assert output[0].tolist() == sample["generated"]


def test_the_letterbox_is_seen_and_the_text_matters(model):
    """What the golden numbers would not tell apart would be no test of them."""
    expected = tensors("expected.safetensors")
    with torch.no_grad():
        masked = build(letterbox_mask=True)(**batch([1])).logits[0]
        fewer = build(num_text_queries=100)(**batch([4])).logits[0]
    assert (masked - expected["logits.1"]).abs().max() > 1e-3
    assert (fewer - expected["logits.4"]).abs().max() > 1e-3
    inputs = batch([4])
    changed = inputs["input_ids"].clone()
    # with the image as one token, id 256 is the first that is not read with it
    changed[0, -1] = 7
    with torch.no_grad():
        close(model(**{**inputs, "input_ids": changed}).image_hidden_states, expected["vision_tokens.4"])


def test_gradients_reach_the_text_projection():
    model = build().train()
    inputs = batch([0, 4], "right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, : labels.shape[1] // 2] = -100
    model(**inputs, labels=labels).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []
    assert all(weight.grad.abs().max() > 0 for weight in model.model.resampler.text_projection.parameters())


def test_images_never_see_the_answer_they_are_trained_for(model):
    inputs = batch([0])
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    other = inputs["input_ids"].clone()
    other[:, -4:] = torch.tensor([5, 6, 7, 8])
    with torch.no_grad():
        seen = model(**inputs, labels=labels).image_hidden_states
        same = model(**{**inputs, "input_ids": other}, labels=labels).image_hidden_states
        cut = {**inputs, "input_ids": inputs["input_ids"][:, :-4], "attention_mask": inputs["attention_mask"][:, :-4]}
        prompt_alone = model(**cut).image_hidden_states
    close(seen, same)
    close(seen, prompt_alone)
    assert (model(**inputs).image_hidden_states - seen).abs().max() > 1e-4


def test_rows_that_share_their_images_read_them_each_with_its_own_text(model):
    one, other = batch([0]), batch([0])
    other["input_ids"][0, -3:] = torch.tensor([9, 10, 11])
    ids = torch.cat([one["input_ids"], other["input_ids"]])
    with torch.no_grad():
        both = model(**{**one, "input_ids": ids, "attention_mask": torch.ones_like(ids)}, image_repeats=2).logits
        close(both[0], model(**one).logits[0])
        close(both[1], model(**other).logits[0])


def test_tower_features_can_be_given(model):
    inputs = batch([0, 1])
    encoded = model.get_vision_features(inputs["pixel_values"])
    encoded.pooler_output = None
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad():
        close(model(**rest, mm_encoder_outputs={"image": encoded}).logits, model(**inputs).logits)


def test_one_image_per_prompt(model):
    inputs = batch([0, 1])
    row = inputs["input_ids"][inputs["attention_mask"].bool()][None]
    both = {**inputs, "input_ids": row, "attention_mask": torch.ones_like(row)}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="reads one image per prompt"):
            call(**both)


def test_a_cache_of_half_a_prompt_is_refused(model):
    inputs = batch([0])
    first = inputs["input_ids"][:, :4]
    cache = model(input_ids=first, use_cache=True)
    cache = cache.get("cache", cache.get("past_key_values"))
    with pytest.raises(ValueError, match="cannot continue from a cache"):
        model.generate(**inputs, past_key_values=cache, **OPTIONS)
