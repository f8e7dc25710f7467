import pytest

from xgenmm_hf.evaluation.metrics.reading import read_choice, read_yes_no


CHOICES = {"A": "red car", "B": "blue car", "C": "a bus", "D": "none"}
READ = [
    ("B", "B"),
    (" (B) ", "B"),
    ("B.", "B"),
    ("**B. blue car**", "B"),
    ("**B**", "B"),
    (r"\boxed{B}", "B"),
    ("I would choose B", "B"),
    ("Based on the image, B is correct.", "B"),
    ("(C) a bus", "C"),
    ("C\nIt is long.", "C"),
    ("The answer is B", "B"),
    ("Answer: (A)", "A"),
    ("It must be (D).", "D"),
    ("Blue car.", "B"),
    ("I see the blue car there", "B"),
    ("A red car", "A"),
    # what is in the way of VLMEvalKit's reading is in the way here
    ("b", None),
    ("bus", None),
    ("E", None),
    ("red car or blue car", None),
    ("answer A or answer B", None),
    ("B: because it is blue", None),
    ("B is what I would say after a long look at all of them", None),
    ("Cannot determine the answer, maybe B", None),
    ("I'm not sure", None),
    ("", None),
]
YES_NO = [
    ("Yes", "yes"),
    ("NO", "no"),
    ("no\n", "no"),
    ("No, there is not.", "no"),
    ("Yes/", "yes"),
    ("There is a dog.", None),
    ("yes and no", None),
    ("nothing", None),
    ("", None),
]


@pytest.mark.parametrize(("answer", "letter"), READ)
def test_reading(answer, letter):
    assert read_choice(answer, CHOICES) == letter


@pytest.mark.parametrize(("answer", "said"), [*YES_NO, ("**No**", "no"), ("_Yes._", "yes")])
def test_yes_and_no(answer, said):
    assert read_yes_no(answer) == said


def test_options_with_the_same_text_name_nothing():
    assert read_choice("dog", {"A": "dog", "B": "Dog"}) is None


def test_vlmevalkit_reads_the_same():
    matching = pytest.importorskip("vlmeval.utils.matching_util", reason="VLMEvalKit is not installed")
    from vlmeval.dataset.utils.yorn import YOrN_Extraction

    for answer, _ in READ:
        theirs = matching.can_infer(answer, dict(CHOICES))
        assert read_choice(answer, CHOICES) == (None if theirs in (False, "Z") else theirs), answer
    for answer, _ in YES_NO:
        theirs = YOrN_Extraction(answer).lower()
        assert read_yes_no(answer) == (None if theirs == "unknown" else theirs), answer
