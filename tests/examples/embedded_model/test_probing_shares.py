"""POPE's measures against a slow implementation by counting."""

import random

import pytest
from embedded_model.measure.probing import probing_shares


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
