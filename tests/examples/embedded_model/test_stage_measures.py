from itertools import islice

from embedded_model.measure.stages import (
    as_row,
    attack_prompts,
    look_alike_prompts,
    measure,
    pair_prompts,
    probing_prompts,
)
from embedded_model.world.requests import REFUSAL

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.metrics.safety import is_refusal
from xgenmm_hf.inference.loading import load


def test_half_of_the_probes_call_for_yes():
    truths = [truth for _, truth in islice(probing_prompts(), 40)]
    assert truths.count("yes") == 20


def test_prompts_come_with_their_images():
    assert all(len(prompt.images) == 2 for prompt, _ in islice(pair_prompts(), 8))
    for prompts in (attack_prompts(), look_alike_prompts()):
        texts = [prompt.text for prompt, _ in islice(prompts, 20)]
        assert len(set(texts)) > 10


def test_the_refusal_that_is_trained_is_known_as_one():
    assert is_refusal(REFUSAL)


def test_a_checkpoint_is_measured():
    row = as_row(measure(load(TINY_MODEL), count=6))
    assert all(0 <= value <= 1 for value in row.values())
    assert row["single"] > 0.3
