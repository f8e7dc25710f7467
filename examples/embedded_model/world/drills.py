"""Facts about a scene of one kind each, in telegram style; every kind has a form of its own.

Where `world.facts` states whatever there is, a drill asks for one skill: "star top left" to find, "higher
star heart star" to compare. Its first words tell which, so that no two kinds can be taken for each other.
"""

import random
from collections.abc import Callable, Mapping

from embedded_model.world.language import describe, place_name, pluralize
from embedded_model.world.questions import NO, YES, referring_traits
from embedded_model.world.scene import COLORS, SHAPES, SIZES, Item, Scene


_ATTRIBUTES = ("color", "shape", "size")
_COUNTED = ((), ("shape",), ("color",), ("color", "shape"), ("size",))
_PROBED = (("shape",), ("color",), ("color", "shape"), ("size", "shape"))
# Forward and backward along each axis: in which of two things is named, and in whether one is there from the other.
_FURTHER = {"column": ("further left", "further right"), "row": ("higher", "lower")}
_RELATED = {"column": ("left of", "right of"), "row": ("above", "below")}


def drill(scene: Scene, rng: random.Random, weights: Mapping[str, int]) -> str:
    """States one fact.

    Args:
        scene: what the image shows.
        rng: decides what is stated; it is advanced.
        weights: how often each of `DRILLS` is drawn; one that the scene does not allow is drawn again.

    Returns:
        A few words, the last of which follow from the image and the others.
    """
    kinds, shares = list(weights), list(weights.values())
    while True:
        stated = DRILLS[rng.choices(kinds, weights=shares)[0]](scene, rng)
        if stated is not None:
            return stated


def _point(scene: Scene, rng: random.Random) -> str:
    item, attribute = rng.choice(scene.items), rng.choice(_ATTRIBUTES)
    return f"{attribute} {place_name(scene, item.row, item.column)} {getattr(item, attribute)}"


def _find(scene: Scene, rng: random.Random) -> str | None:
    named = _named(scene, rng)
    return f"{named[0][1]} {place_name(scene, named[0][0].row, named[0][0].column)}" if named else None


def _trait(scene: Scene, rng: random.Random) -> str | None:
    item, attribute = rng.choice(scene.items), rng.choice(_ATTRIBUTES)
    traits = referring_traits(scene, item, without=attribute)
    return f"{attribute} {describe(item, rng.choice(traits[:2]))} {getattr(item, attribute)}" if traits else None


def _word(scene: Scene, rng: random.Random) -> str | None:
    return f"word {scene.word.text}" if scene.word else None


def _across(scene: Scene, rng: random.Random) -> str | None:
    return _along(scene, rng, "further", ("left", "right"))


def _down(scene: Scene, rng: random.Random) -> str | None:
    return _along(scene, rng, "above", ("top", "bottom"))


def _along(scene: Scene, rng: random.Random, form: str, ends: tuple[str, str]) -> str | None:
    """Tells at which end of one axis something stands, or that it stands in its middle."""
    named = _named(scene, rng)
    if not named:
        return None
    item, name = named[0]
    words = place_name(scene, item.row, item.column).split()
    return f"{form} {name} {next((end for end in ends if end in words), 'middle')}"


def _which(scene: Scene, rng: random.Random) -> str | None:
    compared = _compare(scene, rng)
    if compared is None:
        return None
    one, other, axis, backward, is_one = compared
    return f"{_FURTHER[axis][backward]} {one} {other} {one if is_one else other}"


def _whether(scene: Scene, rng: random.Random) -> str | None:
    compared = _compare(scene, rng)
    if compared is None:
        return None
    one, other, axis, backward, is_one = compared
    return f"is {one} {_RELATED[axis][backward]} {other}? {YES if is_one else NO}"


def _compare(scene: Scene, rng: random.Random) -> tuple[str, str, str, bool, bool] | None:
    """Draws two things and a direction.

    Returns:
        Their names, the axis, whether the direction is right or down, and whether the first is further that way; None
        where no two things can be named, or where these stand at the same height.
    """
    named = _named(scene, rng)
    if len(named) < 2:
        return None
    (one, name), (other, other_name) = named[:2]
    axis = rng.choice(tuple(_FURTHER))
    first, second = getattr(one, axis), getattr(other, axis)
    if first == second:
        return None
    backward = rng.random() < 0.5
    return name, other_name, axis, backward, (first > second) == backward


def _named(scene: Scene, rng: random.Random) -> list[tuple[Item, str]]:
    """Lists the things that can be named without doubt, in random order, each with a name."""
    known = [(item, referring_traits(scene, item)) for item in scene.items]
    named = [(item, describe(item, rng.choice(traits[:3]))) for item, traits in known if traits]
    rng.shuffle(named)
    return named


def _count(scene: Scene, rng: random.Random) -> str:
    name, number = _tally(scene, rng, _COUNTED)
    return f"count {pluralize(name)} {number}"


def _presence(scene: Scene, rng: random.Random) -> str:
    name, number = _tally(scene, rng, _PROBED)
    return f"any {name}? {YES if number else NO}"


def _tally(scene: Scene, rng: random.Random, forms: tuple[tuple[str, ...], ...]) -> tuple[str, int]:
    """Draws the name of something, half of the time from nowhere, and counts how many there are."""
    wanted = rng.choice(scene.items)
    if rng.random() < 0.5:
        wanted = Item(rng.choice(SHAPES), rng.choice(COLORS), rng.choice(SIZES), 0, 0)
    traits = rng.choice(forms)
    name = describe(wanted, traits)
    return name, sum(describe(item, traits) == name for item in scene.items)


# Each takes (scene, rng) and returns a fact, or None where the scene allows none.
DRILLS: dict[str, Callable[[Scene, random.Random], str | None]] = {
    "point": _point,
    "find": _find,
    "trait": _trait,
    "word": _word,
    "across": _across,
    "down": _down,
    "which": _which,
    "whether": _whether,
    "count": _count,
    "presence": _presence,
}
