"""Rows that join and leave get the answers they get alone."""

from random import Random

import pytest
import torch

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration
from xgenmm_hf.serving import batch as batch_module
from xgenmm_hf.serving.batch import Batch


def make_model(**text) -> XGenMMForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = XGenMMConfig(
        vision_config={**sizes, "image_size": 16, "patch_size": 4},
        resampler_config={"num_latents": 4, "depth": 1, "num_heads": 2, "head_dim": 8},
        text_config={
            **sizes,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 256,
            "vocab_size": 103,
            "pad_token_id": 0,
            **text,
        },
        image_token_id=100,
        image_placeholder_token_id=101,
        end_of_chunk_token_id=102,
        anyres_grids=[[16, 32], [32, 16]],
    )
    attention = text.pop("attn_implementation", "sdpa")
    model = XGenMMForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    # random weights of the usual size give almost the same logits everywhere
    for parameter in model.language_model.parameters():
        parameter.data *= 4
    return model


def alone(model, prompt: torch.Tensor, new: int) -> list[int]:
    """The tokens that `generate` gives."""
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    return output[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.inference_mode()
def test_rows_join_and_leave(window, attention):
    model = make_model(sliding_window=window)
    model.set_attn_implementation(attention)
    prompts = [torch.randint(3, 99, (1, length)) for length in (5, 23, 11, 2)]
    expected = [alone(model, prompt, 20) for prompt in prompts]
    batch = Batch(model)
    answers: list[list[int]] = [[], [], [], []]
    rows: list[int] = []

    def add(*numbers: int) -> None:
        logits = batch.add([prompts[number] for number in numbers])
        rows.extend(numbers)
        for number, token in zip(numbers, logits.argmax(-1).tolist(), strict=True):
            answers[number].append(token)

    def step(times: int) -> None:
        for _ in range(times):
            logits = batch.step([answers[number][-1] for number in rows])
            for number, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
                answers[number].append(token)

    def leave(number: int) -> None:
        kept = [place for place, row in enumerate(rows) if row != number]
        batch.keep(kept)
        rows[:] = [rows[place] for place in kept]

    add(0)
    step(3)
    add(1, 2)
    step(4)
    leave(1)
    # the padding that the longest row needed is gone with it
    assert batch.length == 11 + 4
    step(2)
    add(3)
    step(9)
    assert sorted(rows) == [0, 2, 3]
    assert answers[0] == expected[0][:19]
    assert answers[1] == expected[1][:5]
    assert answers[2] == expected[2][:16]
    assert answers[3] == expected[3][:10]
    batch.keep([])
    assert batch.length == 0


@torch.inference_mode()
def test_many_rows_of_all_lengths_come_and_go():
    model = make_model()
    random = Random(0)
    prompts = [torch.randint(3, 99, (1, random.randint(2, 90))) for _ in range(14)]
    lengths = [random.randint(1, 90) for _ in prompts]
    batch, waiting, rows = Batch(model), list(range(len(prompts))), []
    answers: list[list[int]] = [[] for _ in prompts]
    while waiting or rows:
        if waiting and (not rows or random.random() < 0.15):
            new = [waiting.pop() for _ in range(min(len(waiting), random.randint(1, 3)))]
            logits, shown = batch.add([prompts[number] for number in new]), new
            rows += new
        else:
            logits, shown = batch.step([answers[number][-1] for number in rows]), list(rows)
        for number, token in zip(shown, logits.argmax(-1).tolist(), strict=True):
            answers[number].append(token)
        kept = [place for place, number in enumerate(rows) if len(answers[number]) < lengths[number]]
        batch.keep(kept)
        rows = [rows[place] for place in kept]
    assert answers == [alone(model, prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]


@pytest.mark.parametrize("new", [3, 30])
@torch.inference_mode()
def test_rows_for_which_there_is_no_memory_change_nothing(new, monkeypatch):
    model, held = make_model(), [5, 9]
    prompts = [torch.randint(3, 99, (1, length)) for length in held]
    expected = [alone(model, prompt, 6) for prompt in prompts]
    batch = Batch(model)
    answers = [[token] for token in batch.add(prompts).argmax(-1).tolist()]

    def step() -> None:
        for answer, token in zip(answers, batch.step([row[-1] for row in answers]).argmax(-1).tolist(), strict=True):
            answer.append(token)

    step()
    stack, calls = batch_module._stack, []

    def fail_in_the_second_layer(*args):
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no room")
        return stack(*args)

    with monkeypatch.context() as patch:
        patch.setattr(batch_module, "_stack", fail_in_the_second_layer)
        with pytest.raises(torch.OutOfMemoryError):
            batch.add([torch.randint(3, 99, (1, new))])
    assert batch.length == max(held) + 1
    step()
    prompts.append(torch.randint(3, 99, (1, 4)))
    answers.append(batch.add(prompts[-1:]).argmax(-1).tolist())
    for _ in range(3):
        step()
    assert answers[:-1] == expected
    assert answers[-1] == alone(model, prompts[-1], 4)


def test_layers_without_a_cache_are_refused():
    model = make_model()
    model.config.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        Batch(model)
