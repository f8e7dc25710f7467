"""Features, logits, losses and generated tokens equal the original's."""

import pytest
import torch


LOGIT_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_loss(golden, attention):
    model = golden.model(attn_implementation=attention)
    for index in golden.everything:
        with torch.no_grad():
            outputs = model(**golden.batch([index]))
        expected = golden.expected[f"logits.{index}"]
        torch.testing.assert_close(outputs.logits[0], expected, rtol=0, atol=LOGIT_TOLERANCE)
        assert abs(outputs.loss - golden.expected[f"loss.{index}"]) < LOSS_TOLERANCE


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_padded_batch(golden, padding_side):
    model = golden.model()
    batch = golden.batch(golden.everything, padding_side)
    with torch.no_grad():
        outputs = model(**batch)
    assert abs(outputs.loss - golden.expected["loss.batch"]) < LOSS_TOLERANCE
    for index in golden.everything:
        logits = outputs.logits[index][batch["attention_mask"][index].bool()]
        torch.testing.assert_close(logits, golden.expected[f"logits.{index}"], rtol=0, atol=LOGIT_TOLERANCE)


def test_vision_tokens(golden):
    model = golden.model()
    for index in golden.everything:
        batch = golden.batch([index])
        if "pixel_values" not in batch:
            continue
        with torch.no_grad():
            outputs = model.get_image_features(
                batch["pixel_values"], batch["image_sizes"], image_num_tiles=batch["image_num_tiles"]
            )
        for image, tokens in enumerate(outputs.pooler_output):
            expected = golden.expected[f"vision_tokens.{index}.{image}"]
            torch.testing.assert_close(tokens, expected, rtol=0, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generated_tokens(golden, num_beams):
    model = golden.model()
    prompt = golden.prompt(golden.everything)
    output = model.generate(**prompt, **golden.options, num_beams=num_beams, do_sample=False)
    new_tokens = output[:, prompt["input_ids"].shape[1] :]
    assert new_tokens.tolist() == golden.case[f"generated_num_beams_{num_beams}"]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_legacy_api_generate(golden, num_beams):
    """Nested images, (width, height) sizes, unexpanded ids: the new tokens alone come back."""
    model, samples = golden.model(), golden.case["samples"]
    longest = max(len(sample["input_ids"]) for sample in samples)
    padding = [longest - len(sample["input_ids"]) for sample in samples]
    pad_token = golden.case["pad_token_id"]
    rows = [[pad_token] * pad + sample["input_ids"] for pad, sample in zip(padding, samples, strict=True)]
    masks = [[0] * pad + [1] * (longest - pad) for pad in padding]
    output = model.generate(
        pixel_values=[[tiles.unsqueeze(0) for tiles in golden.images(index)] for index in golden.everything],
        image_size=[[tuple(size) for size in sample["image_sizes"]] for sample in samples],
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(masks),
        num_beams=num_beams,
        do_sample=False,
        **golden.options,
    )
    assert output.tolist() == golden.case[f"generated_num_beams_{num_beams}"]


def test_labels_at_image_tokens_never_count(anyres):
    model, batch = anyres.model(), anyres.batch([0])
    marked = batch["labels"].clone()
    marked[batch["input_ids"] == anyres.case["image_token_id"]] = 7
    with torch.no_grad():
        assert model(**batch).loss == model(**{**batch, "labels": marked}).loss


def test_half_precision_stays_close(anyres):
    model = anyres.model().to(torch.bfloat16)
    with torch.no_grad():
        logits = model(**anyres.batch([1])).logits
    assert logits.dtype == torch.bfloat16
    expected = anyres.expected["logits.1"]
    assert (logits[0].float() - expected).abs().max() < 0.1 * expected.abs().max()
