"""Bootstrap intervals and the paired test, against what can be counted by hand."""

from itertools import product

import numpy as np
import pytest
from results_of import make_result

from xgenmm_hf.evaluation import compare as module
from xgenmm_hf.evaluation.compare import MEANS, compare, comparison_table, paired_test
from xgenmm_hf.evaluation.metrics import METRICS, score
from xgenmm_hf.evaluation.samples import Sample


def test_the_permutation_test_agrees_with_all_permutations():
    generator = np.random.default_rng(3)
    first, second = generator.random((2, 10))
    change = second - first
    signs = np.array(list(product((-1, 1), repeat=10)))
    exact = (np.abs((signs * change).mean(1)) >= abs(change.mean()) - 1e-12).mean()
    found = paired_test(first, second, "accuracy", "", 20_000, 0)
    assert found.p_value == pytest.approx(exact, abs=0.015)
    assert found.difference == pytest.approx(change.mean())


def test_the_bootstrap_agrees_with_the_normal_interval():
    generator = np.random.default_rng(4)
    first = generator.random(400)
    second = first + generator.normal(0.02, 0.1, 400)
    found = paired_test(first, second, "accuracy", "", 4000, 0)
    change = second - first
    half = 1.96 * change.std() / 20
    assert found.interval == pytest.approx((change.mean() - half, change.mean() + half), abs=0.002)
    assert found.first_interval == pytest.approx(
        (first.mean() - 1.96 * first.std() / 20, first.mean() + 1.96 * first.std() / 20), abs=0.004
    )


def test_equal_results_do_not_differ_and_the_seed_decides():
    scores = [1.0, 0.0, 1.0, 1.0]
    same = compare(make_result(scores), make_result(scores), resamples=200).differences[0]
    assert (same.difference, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    one, other = make_result([1.0, 0.0] * 20), make_result([1.0] * 30 + [0.0] * 10)
    assert compare(one, other, resamples=200, seed=1) == compare(one, other, resamples=200, seed=1)
    assert compare(one, other, resamples=200, seed=1) != compare(one, other, resamples=200, seed=2)


def test_blocks_change_nothing_but_memory(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 50)
    assert module._blocks(7, 20) == [2, 2, 2, 1]
    found = compare(make_result([1.0] * 20), make_result([0.0] * 20), resamples=101).differences[0]
    assert (found.difference, found.first_interval, found.second_interval) == (-1.0, (1.0, 1.0), (0.0, 0.0))
    assert found.p_value == pytest.approx(1 / 102)


def test_only_shared_samples_count_and_categories_are_apart():
    first = make_result([1.0, 0.0, 1.0, 0.0], categories=("a", "b"))
    second = make_result([1.0, 1.0], categories=("a", "b"))
    found = compare(first, second, resamples=50)
    assert [(one.category, one.samples, one.first, one.second) for one in found.differences] == [
        ("", 2, 0.5, 1.0),
        ("a", 1, 1.0, 1.0),
        ("b", 1, 0.0, 1.0),
    ]
    assert (found.only_first, found.only_second) == (2, 0)
    table = comparison_table(found)
    assert "| accuracy | all | 2 | 0.5000 (" in table
    assert "Not counted: 2 samples of the first alone" in table


def test_measures_that_are_no_means_stand_side_by_side():
    first, second = make_result([1.0, 0.0]), make_result([1.0, 1.0])
    first["scores"]["f1"], second["scores"]["f1"] = 0.3, 0.9
    found = compare(first, second, resamples=50).differences
    assert [(one.measure, one.p_value is None) for one in found] == [("accuracy", False), ("f1", True)]
    assert found[1].difference == pytest.approx(0.6)


def test_where_no_measure_is_a_mean_the_samples_scores_are_compared():
    first, second = make_result([1.0, 0.0]), make_result([1.0, 1.0])
    first["scores"], second["scores"] = {"attack_success": 0.25}, {"attack_success": 0.125}
    found = compare(first, second, resamples=50).differences
    assert [(one.measure, one.first, one.p_value is None) for one in found] == [
        ("attack_success", 0.25, True),
        ("mean score of a sample", 0.5, False),
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_the_means_are_those_of_the_metrics(metric):
    options = [{"label": label, "safe": True, "choices": {"A": "yes", "B": "no"}} for label in ("yes", "no", "no")]
    samples = [Sample(str(place), "?", (), ("A", "yes"), options=one) for place, one in enumerate(options)]
    found = score(metric, samples, ["yes", "no", "B"])
    for name in MEANS & set(found.overall):
        assert found.overall[name] == pytest.approx(sum(found.per_sample) / len(samples))
    assert (MEANS & set(found.overall)) or metric == "safety"


def test_results_that_cannot_be_compared():
    one, other = make_result([1.0]), make_result([1.0])
    other["task"]["metric"] = "vqa"
    with pytest.raises(ValueError, match="metrics 'exact' and 'vqa'"):
        compare(one, other)
    other = make_result([1.0])
    other["samples"][0]["question"] = "Else?"
    with pytest.raises(ValueError, match="'s0' has another question"):
        compare(one, other)
    other["samples"][0]["id"] = "else"
    with pytest.raises(ValueError, match="share no sample"):
        compare(one, other)
    with pytest.raises(ValueError, match="resamples is 0"):
        compare(one, one, resamples=0)
