"""ANLS against the example that its authors publish and a slow implementation; exact match."""

import functools
import random

import pytest

from xgenmm_hf.evaluation.metrics.text import anls, edit_distance, exact_match


@pytest.mark.parametrize(
    ("answer", "first", "second"),
    [
        ("The Coca", 0.44, 0.29),
        ("CocaCola", 0.89, 0.47),
        ("Coca cola", 1.00, 0.53),
        ("Cola", 0.44, 0.23),
        ("Cat", 0.22, 0.12),
    ],
)
def test_anls_of_the_published_example(answer, first, second):
    # The table of the challenge's page on the measure (rrc.cvc.uab.es), before and after the threshold.
    truth = ["Coca Cola", "Coca Cola Company"]
    assert anls(answer, truth[:1], threshold=0) == pytest.approx(first, abs=0.006)
    assert anls(answer, truth[1:], threshold=0) == pytest.approx(second, abs=0.006)
    best = max(first, second)
    assert anls(answer, truth) == pytest.approx(best if best >= 0.5 else 0, abs=0.006)


def slow_distance(one, other):
    @functools.cache
    def of(left, right):
        if not left or not right:
            return len(left) + len(right)
        return min(of(left[1:], right) + 1, of(left, right[1:]) + 1, of(left[1:], right[1:]) + (left[0] != right[0]))

    return of(one, other)


def test_distances_of_random_texts_are_those_of_a_slow_implementation():
    rng = random.Random(0)
    for _ in range(300):
        one, other = ("".join(rng.choice("ab c") for _ in range(rng.randint(0, 7))) for _ in range(2))
        assert edit_distance(one, other) == slow_distance(one, other)


def test_anls_ignores_case_and_width_of_spaces_and_cuts_below_the_threshold():
    assert anls("  NEW   York ", ["new york"]) == 1
    assert anls("", [""]) == 1
    assert anls("abcd", ["abxy"]) == 0.5
    assert anls("abc", ["axy"]) == 0
    assert anls("x", []) == 0


def test_exact_match():
    assert exact_match(" cat ", ["dog", "cat"]) == 1
    assert exact_match("The cat.", ["cat"]) == 0
    assert exact_match("The cat.", ["cat"], normalise=True) == 1
    assert exact_match("two", ["2"], normalise=True) == 1
