"""POPE's reading of answers and its measures against a slow implementation by counting."""

import random

import pytest

from xgenmm_hf.evaluation.metrics.probing import is_unclear, probing_shares, says_yes


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("yes, there is a dog.", True),
        ("No", False),
        ("No, there is no dog.", False),
        ("There is not a dog in the image.", False),
        ("Yes. There is no cat.", True),  # the first sentence alone counts
        ("NO", True),  # the official words are "No", "no" and "not"
        ("There isn't one", True),
        ("no.", False),
        ("a, no, b", False),
        ("Nothing", True),
        ("", True),
    ],
)
def test_answers_are_read_as_the_official_evaluation_reads_them(answer, yes):
    assert says_yes(answer) is yes


def test_unclear_answers():
    assert [is_unclear(text) for text in ("", "a dog", "Nothing", "YES!", "no", "It is not.")] == [True] * 3 + [
        False
    ] * 3


def test_shares_of_random_answers_are_those_of_counting():
    rng = random.Random(0)
    for _ in range(200):
        pairs = [(rng.random() < 0.5, rng.random() < 0.6) for _ in range(rng.randint(1, 20))]
        tp, fp = pairs.count((True, True)), pairs.count((False, True))
        fn, tn = pairs.count((True, False)), pairs.count((False, False))
        precision = tp / (tp + fp) if tp + fp else 0
        recall = tp / (tp + fn) if tp + fn else 0
        assert probing_shares([truth for truth, _ in pairs], [said for _, said in pairs]) == pytest.approx(
            {
                "accuracy": (tp + tn) / (tp + tn + fp + fn),
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0,
                "yes_ratio": (tp + fp) / len(pairs),
                "hallucinated": fp / (fp + tn) if fp + tn else 0,
            }
        )


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="no answers"):
        probing_shares([], [])
