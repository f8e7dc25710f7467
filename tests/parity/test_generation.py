"""`generate` with images: batches, beams, caches and precomputed images give what one prompt alone gives."""

from functools import wraps

import pytest
import torch


NEW_TOKENS = 8
GREEDY = {"max_new_tokens": NEW_TOKENS, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False}


@pytest.fixture(scope="module")
def model(anyres):
    return anyres.model()


@pytest.fixture(scope="module")
def alone(anyres, model):
    """The greedy answer of every sample on its own."""
    return [new_tokens(model, anyres.prompt([index]))[0] for index in anyres.everything]


@pytest.fixture
def tower_calls(model):
    """Counts the tiles of every call of the vision tower."""
    calls = []
    hook = model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[0]))
    yield calls
    hook.remove()


def new_tokens(model, prompt: dict, **options) -> list[list[int]]:
    output = model.generate(**prompt, **{**GREEDY, **options})
    start = prompt["input_ids"].shape[1]
    return output[:, start : start + NEW_TOKENS].tolist()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1], [2, 2, 0]])
def test_batches_of_different_numbers_of_images(anyres, model, alone, order):
    assert new_tokens(model, anyres.prompt(order)) == [alone[index] for index in order]


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=["no cache", "static cache", "prompt lookup"],
)
def test_greedy_answers_do_not_depend_on_how(anyres, model, alone, options):
    for index in (0, 2, 3):
        assert new_tokens(model, anyres.prompt([index]), **options) == [alone[index]]


def test_prompt_lookup_proposes_no_image_tokens(anyres, model):
    """The prompt ends in the token before its image, so what followed that one would be proposed."""
    prompt = anyres.prompt([0])
    ids = prompt["input_ids"]
    before = int((ids[0] == model.config.image_token_id).nonzero()[0]) - 1
    prompt["input_ids"] = torch.cat([ids, ids[:, before : before + 1]], dim=1)
    prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
    assert new_tokens(model, prompt, prompt_lookup_num_tokens=3) == new_tokens(model, prompt)


@pytest.mark.parametrize("options", [{"num_beams": 2, "num_return_sequences": 2}, {"num_beams": 3}])
def test_images_are_encoded_once_per_prompt(anyres, model, tower_calls, options):
    together = new_tokens(model, anyres.prompt([2, 1, 3]), **options)
    assert tower_calls == [sum(len(tiles) for index in (2, 1) for tiles in anyres.images(index))]
    apart = [row for index in (2, 1, 3) for row in new_tokens(model, anyres.prompt([index]), **options)]
    assert together == apart


def test_sampled_return_sequences(anyres, model, tower_calls):
    rows = new_tokens(model, anyres.prompt([1]), do_sample=True, num_return_sequences=4)
    assert len(rows) == 4
    assert len(tower_calls) == 1


def test_same_prompt_with_other_images(anyres, model, alone):
    pair, other = anyres.prompt([0, 0]), anyres.prompt([0])
    other["pixel_values"] = -other["pixel_values"]
    pair["pixel_values"][len(other["pixel_values"]) :] *= -1
    assert new_tokens(model, pair) == [alone[0], new_tokens(model, other)[0]]


def test_classifier_free_guidance_runs_with_images(anyres, model, tower_calls):
    options = {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([[1, 5, 6]])}
    assert len(new_tokens(model, anyres.prompt([0]), **options)[0]) == NEW_TOKENS
    assert len(tower_calls) == 1


def test_precomputed_images(anyres, model, alone, tower_calls):
    prompt = anyres.prompt([2, 1])
    images = {name: prompt.pop(name) for name in ("pixel_values", "image_sizes", "image_num_tiles")}
    encoded = {"image": model.get_image_features(**images)}
    del tower_calls[:]
    assert new_tokens(model, {**prompt, "mm_encoder_outputs": encoded}) == [alone[2], alone[1]]
    assert not tower_calls


@pytest.mark.parametrize("num_beams", [1, 2])
def test_inputs_embeds(anyres, model, num_beams):
    prompt = anyres.prompt([2, 1])
    expected = new_tokens(model, prompt, num_beams=num_beams)
    embeds = model.get_input_embeddings()(prompt.pop("input_ids"))
    output = model.generate(inputs_embeds=embeds, **prompt, **GREEDY, num_beams=num_beams)
    assert output.tolist() == expected


def test_generate_leaves_the_mode_alone(anyres, model):
    model.train()
    new_tokens(model, anyres.prompt([3]))
    assert model.training
    model.eval()


def test_compiled_decode_step(anyres, model, alone):
    """With a static cache the decode step is one graph, and it gives the same tokens."""
    torch._dynamo.reset()
    forward = model.forward
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    steps = []

    @wraps(forward)
    def step(**kwargs):
        if kwargs["input_ids"].shape[1] > 1:
            return forward(**kwargs)
        steps.append(1)
        return compiled(**kwargs)

    model.forward = step
    try:
        options = {"cache_implementation": "static", "disable_compile": True}
        assert new_tokens(model, anyres.prompt([0]), **options) == [alone[0]]
    finally:
        del model.forward
    assert len(steps) == NEW_TOKENS - 1
