"""VQA accuracy against its published values and against a slow implementation of the official rules."""

import random
import string

import pytest

from xgenmm_hf.evaluation.metrics.vqa import contains, exact_match, normalise_answer, textvqa_accuracy, vqa_accuracy


@pytest.mark.parametrize(("matching", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_accuracy_by_matching_annotators_is_the_published_one(matching, expected):
    # The values of the official evaluation for ten annotators, as VQA's soft labels state them.
    references = ["cat"] * matching + [f"other{number}" for number in range(10 - matching)]
    assert vqa_accuracy("Cat.", references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The dog.", "dog"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("ten o'clock", "10 o'clock"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("lets go", "lets go"),
        ("somebody'd", "somebodyd"),
        ("red/white", "red white"),
        ("red/ white", "red white"),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),
        ("3.5", "3.5"),
        ("U.S.", "us"),
        ("12:30", "12:30"),
        ("what?!", "what"),
        (" a  b\tc\nd ", "b c d"),
        ("An apple, a pear", "apple pear"),
        ("", ""),
        ("...", ""),
    ],
)
def test_normal_forms(answer, normal):
    assert normalise_answer(answer) == normal


def slow_normal_form(text):
    """The official steps, sign by sign and word by word."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    number = any(
        text[at] == "," and text[at - 1].isdigit() and text[at + 1].isdigit() for at in range(1, len(text) - 1)
    )
    out = ""
    for letter in text:
        if letter in set(string.punctuation) - set("'.:#$%&*^|~"):
            beside_space = any(text[at : at + 2] in (f"{letter} ", f" {letter}") for at in range(len(text) - 1))
            out += "" if number or beside_space else " "
        else:
            out += letter
    kept = [letter for at, letter in enumerate(out) if letter != "." or out[at + 1 : at + 2].isdigit()]
    words = "".join(kept).lower().split()
    fixed = {"none": "0", "two": "2", "dont": "don't", "isnt": "isn't"}
    return " ".join(fixed.get(word, word) for word in words if word not in ("a", "an", "the"))


def test_normal_forms_of_random_texts_are_those_of_a_slow_implementation():
    rng = random.Random(0)
    pieces = [*string.punctuation, " ", " ", "a", "The", "two", "10", "1,0", "dont", "isnt", "x", "None", "\n", "3.4"]
    for _ in range(2000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 9)))
        assert normalise_answer(text) == slow_normal_form(text), text


def slow_accuracy(answer, references):
    """Leaves each annotator out in turn."""
    if len(set(references)) > 1:
        answer, references = slow_normal_form(answer), [slow_normal_form(one) for one in references]
    scores = []
    for left_out in range(len(references)):
        others = [one for at, one in enumerate(references) if at != left_out]
        scores.append(min(1, sum(one == answer for one in others) / 3))
    return sum(scores) / len(scores)


def test_accuracy_of_random_answers_is_that_of_a_slow_implementation():
    rng = random.Random(1)
    words = ["yes", "Yes", "no", "two", "2", "the cat", "cat", "t-shirt", "t shirt", ""]
    for _ in range(1000):
        chosen = rng.sample(words, rng.randint(1, 4))
        references = [rng.choice(chosen) for _ in range(rng.choice([2, 3, 5, 10]))]
        answer = rng.choice(words)
        assert vqa_accuracy(answer, references) == pytest.approx(slow_accuracy(answer, references))


def test_where_all_annotators_agree_the_official_rule_compares_as_it_stands():
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0
    assert vqa_accuracy(" yes\n", ["yes"] * 10) == 1


def test_one_annotator_is_refused():
    with pytest.raises(ValueError, match="got 1 reference.*metric exact"):
        vqa_accuracy("cat", ["cat"])


def test_textvqa_normalises_always():
    assert textvqa_accuracy("Yes.", ["yes"] * 10) == 1
    # Its own steps come before VQA's: signs that others turn into spaces go.
    assert textvqa_accuracy("dakota,digital?", ["dakotadigital"] * 10) == 1
    assert textvqa_accuracy("levi's", ["levi 's"] * 10) == 1
    assert textvqa_accuracy("cat", ["cat"] * 3 + ["dog"] * 7) == pytest.approx(0.9)


def test_exact_and_contains():
    assert exact_match("The cat.", ["dog", "cat"]) == exact_match("two", ["2"]) == 1
    assert exact_match("a black cat", ["cat"]) == 0
    assert contains("It is a black cat.", ["dog", "The cat"]) == 1
    assert contains("category", ["cat"]) == 0
    assert contains("anything", [""]) == 0
