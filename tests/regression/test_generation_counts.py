"""What a prompt and a decode step cost, counted: tower calls, logits, waits for the device, graphs."""

import pytest
import torch
from counting import OperatorCounter
from golden_cases import GOLDEN, GoldenCase

from xgenmm_hf.modeling.compat_xgenmm import IS_V5


NEW_TOKENS = 4
OPTIONS = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
# Lines of this package that wait for the device while a prompt is read.
WAITS_IN_PREFILL = 1


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.is_dir():
        pytest.skip("golden fixtures are not there")
    return GoldenCase("anyres")


@pytest.fixture(scope="module")
def model(golden):
    return golden.model()


@pytest.fixture
def shapes(model):
    """Shapes of what reaches the vision tower, the resampler and the head, call by call."""
    seen = {"tower": [], "resampler": [], "head": []}
    modules = {"tower": model.vision_tower, "resampler": model.model.resampler, "head": model.lm_head}
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: seen[name].append(tuple(args[0].shape)))
        for name, module in modules.items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("beams", [1, 3])
def test_all_tiles_of_a_batch_pass_the_tower_in_one_call(golden, model, shapes, beams):
    prompt = golden.prompt([2, 1])
    model.generate(**prompt, **OPTIONS, num_beams=beams)
    assert [shape[0] for shape in shapes["tower"]] == [len(prompt["pixel_values"])]
    assert [shape[0] for shape in shapes["resampler"]] == [len(prompt["pixel_values"])]


@pytest.mark.parametrize("beams", [1, 3])
def test_every_step_computes_one_row_of_logits(golden, model, shapes, beams):
    model.generate(**golden.prompt([2, 1]), **OPTIONS, num_beams=beams)
    assert [shape[1] for shape in shapes["head"]] == [1] * NEW_TOKENS


def test_waits_while_a_prompt_is_read(golden, model):
    with torch.no_grad(), OperatorCounter() as counter:
        model(**golden.prompt([2, 1]), use_cache=True, logits_to_keep=1)
    assert len(counter.waits) <= WAITS_IN_PREFILL, counter.waits


def test_waits_do_not_grow_with_images_and_rows(golden, model):
    counts = []
    for samples in ([1], [2, 1, 2, 1]):
        with torch.no_grad(), OperatorCounter() as counter:
            model(**golden.prompt(samples), use_cache=True, logits_to_keep=1)
        counts.append(len(counter.waits))
    assert counts[0] == counts[1]


def test_operators_do_not_grow_with_images_and_rows(golden, model):
    """Nothing on the way from pixels to logits loops over images, tiles or rows."""
    counts = []
    for samples in ([2, 1], [2, 1, 2, 1]):
        with torch.no_grad(), OperatorCounter() as counter:
            model(**golden.prompt(samples), use_cache=True, logits_to_keep=1)
        counts.append(counter.calls.total())
    assert counts[0] == counts[1]


def test_decode_steps_wait_for_nothing_of_ours(golden, model):
    """On 4.57 the position says whether a step is the first one, which is one wait a step; 5.x says so itself."""
    with OperatorCounter() as short:
        model.generate(**golden.prompt([1]), **{**OPTIONS, "max_new_tokens": 1, "min_new_tokens": 1})
    with OperatorCounter() as long:
        model.generate(**golden.prompt([1]), **OPTIONS)
    assert len(long.waits) - len(short.waits) == (0 if IS_V5 else NEW_TOKENS - 1)


def test_decode_steps_are_compiled_once(golden, model):
    """Two graphs: a sliding window's cache counts in a Python number, which the second step finds to vary."""
    from torch._dynamo.testing import CompileCounter
    from transformers import StaticCache

    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(model.forward, backend=counter, fullgraph=True)
    prompt = golden.prompt([1])
    length = prompt["input_ids"].shape[1]
    cache = StaticCache(config=model.config.text_config, max_cache_len=length + NEW_TOKENS + 2)
    with torch.no_grad():
        positions = torch.arange(length)
        logits = model(**prompt, past_key_values=cache, use_cache=True, cache_position=positions).logits
        for index in range(NEW_TOKENS + 2):
            position = torch.tensor([length + index])
            ids = logits[:, -1:].argmax(-1)
            options = {"position_ids": position[None], "cache_position": position}
            logits = step(input_ids=ids, past_key_values=cache, use_cache=True, **options).logits
    assert counter.frame_count <= 2
