import random
from collections import Counter

import pytest
from embedded_model.world.drills import DRILLS, drill
from embedded_model.world.language import describe, place_name, pluralize
from embedded_model.world.scene import TRAIN, make_scene


def stated(kind, count=400):
    """Returns scenes with facts of one kind."""
    rng = random.Random(0)
    found = [(scene, DRILLS[kind](scene, rng)) for scene in (make_scene(seed, TRAIN) for seed in range(count))]
    found = [(scene, text) for scene, text in found if text is not None]
    assert len(found) > count / 3
    return found


def phrases_of(item, plural=False):
    traits = [(), ("shape",), ("color",), ("size",), ("color", "shape"), ("size", "shape"), ("size", "color")]
    phrases = [*(describe(item, each) for each in traits), describe(item)]
    return [pluralize(phrase) for phrase in phrases] if plural else phrases


def the(scene, name):
    """Returns the one thing that a name means."""
    (item,) = [item for item in scene.items if name in phrases_of(item)]
    return item


def test_points_tell_what_is_at_a_place():
    for scene, text in stated("point"):
        attribute, *place, value = text.split()
        at = {place_name(scene, item.row, item.column): item for item in scene.items}
        assert getattr(at[" ".join(place)], attribute) == value


def test_finds_tell_where_a_thing_is():
    for scene, text in stated("find"):
        places = {place_name(scene, item.row, item.column): item for item in scene.items}
        assert any(text == f"{name} {at}" for at, item in places.items() for name in phrases_of(item))
        name = max((each for item in scene.items for each in phrases_of(item) if text.startswith(each)), key=len)
        assert text == f"{name} {place_name(scene, the(scene, name).row, the(scene, name).column)}"


def test_traits_are_those_of_the_named_thing():
    for scene, text in stated("trait"):
        attribute, *name, value = text.split()
        assert getattr(the(scene, " ".join(name)), attribute) == value


def test_words_are_read():
    assert all(text == f"word {scene.word.text}" for scene, text in stated("word", 800))


@pytest.mark.parametrize(("kind", "form", "axis"), [("across", "further", "column"), ("down", "above", "row")])
def test_ends_of_an_axis(kind, form, axis):
    ends = Counter()
    for scene, text in stated(kind):
        first, *name, end = text.split()
        position = getattr(the(scene, " ".join(name)), axis)
        number = scene.columns if axis == "column" else scene.rows
        assert first == form
        assert (end in ("left", "top"), end in ("right", "bottom")) == (
            number > 1 and position == 0,
            number > 1 and position == number - 1,
        )
        ends[end] += 1
    assert len(ends) == 3
    assert min(ends.values()) > 20


DIRECTIONS = {
    "further left": ("column", -1),
    "further right": ("column", 1),
    "higher": ("row", -1),
    "lower": ("row", 1),
    "left of": ("column", -1),
    "right of": ("column", 1),
    "above": ("row", -1),
    "below": ("row", 1),
}


def test_which_of_two_names_the_one_that_is_further():
    winners = Counter()
    for scene, text in stated("which", 800):
        form = next(each for each in DIRECTIONS if text.startswith(f"{each} "))
        rest, (axis, sign) = text.removeprefix(f"{form} "), DIRECTIONS[form]
        names = {name for item in scene.items for name in phrases_of(item)}
        splits = [
            (one, other, winner)
            for one in names
            for other in names
            for winner in (one, other)
            if rest == f"{one} {other} {winner}"
        ]
        ((one, other, winner),) = {split for split in splits if split[0] != split[1]}
        ahead = (getattr(the(scene, one), axis) - getattr(the(scene, other), axis)) * sign
        assert winner == (one if ahead > 0 else other)
        assert ahead
        winners[winner == one] += 1
    assert min(winners.values()) > 0.4 * winners.total()


def test_whether_one_is_beside_another():
    answers = Counter()
    for scene, text in stated("whether", 800):
        asked, answer = text.removeprefix("is ").split("? ")
        form = next(each for each in DIRECTIONS if f" {each} " in asked)
        one, other = (the(scene, name) for name in asked.split(f" {form} "))
        axis, sign = DIRECTIONS[form]
        assert answer == ("yes" if (getattr(one, axis) - getattr(other, axis)) * sign > 0 else "no")
        answers[answer] += 1
    assert min(answers.values()) > 0.4 * answers.total()


def test_counts_and_presence():
    answers = Counter()
    for scene, text in stated("count"):
        name, number = text.removeprefix("count ").rsplit(" ", 1)
        assert int(number) == sum(name in phrases_of(item, plural=True) for item in scene.items)
        answers[number] += 1
    for scene, text in stated("presence"):
        name, answer = text.removeprefix("any ").split("? ")
        assert (answer == "yes") == any(name in phrases_of(item) for item in scene.items)
        answers[answer] += 1
    assert set("0123") | {"yes", "no"} <= set(answers)
    assert answers["no"] > 100 < answers["yes"]


def test_only_what_has_a_weight_is_drawn_and_only_what_the_scene_allows():
    rng = random.Random(0)
    for seed in range(200):
        text = drill(make_scene(seed, TRAIN), rng, {"which": 5, "count": 1})
        assert text.startswith(("count ", "further left ", "further right ", "higher ", "lower "))
