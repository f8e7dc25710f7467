"""Grounding captions in three forms."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xgenmm_hf.data.boxes import FORMS, grounding_caption


PLAYER = ("football player", (0.015, 0.005, 0.845, 0.993))
JERSEY = ("red jersey", (0.205, 0.207, 0.638, 0.994))


@pytest.mark.parametrize(
    ("form", "caption"),
    [
        ("place", "A football player (in the center) wearing a red jersey (in the center)."),
        (
            "tags",
            "A <object>football player</object><bbox>[0.015, 0.005][0.845, 0.993]</bbox> wearing a "
            "<object>red jersey</object><bbox>[0.205, 0.207][0.638, 0.994]</bbox>.",
        ),
        (
            "extent",
            "A football player (starts at (0.015, 0.005) and extends up to (0.845, 0.993)) wearing a red jersey "
            "(starts at (0.205, 0.207) and extends up to (0.638, 0.994)).",
        ),
    ],
)
def test_forms(form, caption):
    assert grounding_caption("A football player wearing a red jersey.", [PLAYER, JERSEY], form) == caption


def test_longer_names_and_whole_words_first():
    left, right = (0.0, 0.4, 0.2, 0.6), (0.8, 0.4, 1.0, 0.6)
    caption = grounding_caption("Jerseys, a red jersey, a Jersey.", [("jersey", left), ("red jersey", right)], "place")
    assert caption == ("Jerseys, a red jersey (to the right of the center), a Jersey (to the left of the center).")


def test_objects_of_one_name_take_mentions_in_order():
    objects = [("cat", (0.0, 0.0, 0.1, 0.1)), ("cat", (0.9, 0.9, 1.0, 1.0))]
    caption = grounding_caption("A cat, a cat and a cat.", objects, "place")
    assert caption == "A cat (at the top left corner), a cat (at the bottom right corner) and a cat."


@given(st.text(max_size=40), st.lists(st.text(max_size=6), max_size=4), st.sampled_from(FORMS))
def test_the_caption_itself_stays(caption, names, form):
    written = grounding_caption(caption, [(name, PLAYER[1]) for name in names], form)
    numbers = r"[\[(]0\.015, 0\.005[\])](?: and extends up to )?[\[(]0\.845, 0\.993[\])]"
    marks = rf"<object>|</object><bbox>{numbers}</bbox>| \(in the center\)| \(starts at {numbers}\)"
    assert re.sub(marks, "", written) == re.sub(marks, "", caption)


def test_an_unknown_form():
    with pytest.raises(ValueError, match="grounding form 'box'"):
        grounding_caption("A cat.", [], "box")
