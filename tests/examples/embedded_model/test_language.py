import pytest
from embedded_model.world.language import at_place, caption, describe, place_name, pluralize
from embedded_model.world.scene import Item, Scene, Word


ITEMS = (Item("circle", "red", "large", 0, 0), Item("star", "blue", "small", 1, 1))


def scene_of(layout, items=ITEMS, word=None):
    return Scene(layout, "white", items, word, aspect=1.0, jitter_seed=0)


def test_a_caption_tells_everything_in_reading_order():
    assert caption(scene_of("square", word=Word("TAXI", 2))) == (
        "A large red circle at the top left, a small blue star in the middle and the word TAXI at the bottom, "
        "on a white background."
    )
    assert caption(scene_of("square", ITEMS[:1])) == "A large red circle at the top left, on a white background."


@pytest.mark.parametrize(
    ("layout", "row", "column", "name"),
    [
        ("square", 0, 0, "top left"),
        ("square", 1, 1, "middle"),
        ("square", 2, 2, "bottom right"),
        ("square", 0, None, "top"),
        ("wide", 1, 1, "bottom"),
        ("tall", 1, 1, "right"),
        ("banner", 0, 0, "left"),
        ("banner", 0, 1, "middle"),
        ("column", 2, 0, "bottom"),
    ],
)
def test_places_are_named_by_their_layout(layout, row, column, name):
    assert place_name(scene_of(layout), row, column) == name


def test_prepositions():
    assert at_place("left") == "on the left"
    assert at_place("middle") == "in the middle"
    assert at_place("bottom left") == "at the bottom left"


def test_names():
    assert describe(ITEMS[0]) == "large red circle"
    assert describe(ITEMS[0], ("color",)) == "red shape"
    assert pluralize("blue cross") == "blue crosses"
    assert pluralize("shape") == "shapes"
