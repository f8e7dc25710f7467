import pytest

from xgenmm_hf.evaluation.metrics.choices import read_choice


CHOICES = {"A": "red car", "B": "blue car", "C": "a bus", "D": "none"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("B.", "B"),
        ("B. blue car", "B"),
        ("B: because it is blue", "B"),
        ("(C) a bus", "C"),
        ("C\nIt is long.", "C"),
        ("The answer is B", "B"),
        ("Answer: (A)", "A"),
        ("The correct option is C, the bus.", "C"),
        ("It must be (D).", "D"),
        ("Blue car.", "B"),
        ("I see the blue car there", "B"),
        ("bus", "C"),
        ("A bus", "C"),
        ("A red car", "A"),
        ("E", None),
        ("E. none of them", "D"),
        ("red car or blue car", None),
        ("answer A or answer B", None),
        ("A dog", None),
        ("I'm not sure", None),
        ("", None),
    ],
)
def test_reading(answer, letter):
    assert read_choice(answer, CHOICES) == letter


def test_options_with_the_same_text_name_nothing():
    assert read_choice("dog", {"A": "dog", "B": "Dog"}) is None
