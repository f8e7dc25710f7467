"""Facts about a scene in telegram style, each a name followed at once by what it names.

"heart bottom left", "color top right red", "red circles 2": the token before the answer says what to look for. A small
language model learns to look things up in images from such facts within minutes, and whole questions build on that;
from whole questions alone it stays at guessing among the things that an image shows.
"""

import random

from embedded_model.world.language import describe, place_name, pluralize
from embedded_model.world.questions import NO, YES, referring_traits
from embedded_model.world.scene import COLORS, SHAPES, SIZES, Item, Scene


_ATTRIBUTES = ("color", "shape", "size")
_KINDS = {
    "attribute": 22,
    "contents": 16,
    "place": 28,
    "relation": 12,
    "count": 8,
    "presence": 8,
    "background": 3,
    "word": 3,
}
_COUNTED = (("shape",), ("color",), ("color", "shape"), ("size", "shape"))


def fact(scene: Scene, rng: random.Random) -> str:
    """States one fact.

    Args:
        scene: what the image shows.
        rng: decides what is stated; it is advanced.

    Returns:
        A few words, the last of which follow from the image and the others.
    """
    kind = rng.choices(list(_KINDS), weights=list(_KINDS.values()))[0]
    item = rng.choice(scene.items)
    place = place_name(scene, item.row, item.column)
    if kind == "background":
        return f"background {scene.background}"
    if kind == "word" and scene.word is not None:
        return rng.choice((f"word {scene.word.text}", f"word {place_name(scene, scene.word.row, scene.word.column)}"))
    if kind in ("count", "presence"):
        return _counted(scene, item, rng, kind == "presence")
    if kind == "relation" and (related := _related(scene, rng)):
        return related
    traits = referring_traits(scene, item)
    if kind == "place" and traits:
        return f"{describe(item, rng.choice(traits))} {place}"
    if kind == "contents":
        return f"{place} {describe(item)}"
    attribute = rng.choice(_ATTRIBUTES)
    return f"{attribute} {place} {getattr(item, attribute)}"


def _counted(scene: Scene, item: Item, rng: random.Random, presence: bool) -> str:
    """Says how many there are of something, or whether there is any; half of the time it is drawn from nowhere."""
    if rng.random() < 0.5:
        item = Item(rng.choice(SHAPES), rng.choice(COLORS), rng.choice(SIZES), item.row, item.column)
    traits = rng.choice(_COUNTED)
    name = describe(item, traits)
    count = sum(describe(other, traits) == name for other in scene.items)
    return f"{name}? {YES if count else NO}" if presence else f"{pluralize(name)} {count}"


def _related(scene: Scene, rng: random.Random) -> str | None:
    """Compares the places of two things, if two can be named."""
    named = [(item, referring_traits(scene, item)) for item in scene.items]
    known = [(item, describe(item, rng.choice(traits))) for item, traits in named if traits]
    if len(known) < 2:
        return None
    (one, name), (other, other_name) = rng.sample(known, 2)
    (ahead, behind), first, second = rng.choice(
        ((("left", "right"), one.column, other.column), (("higher", "lower"), one.row, other.row))
    )
    if first == second:
        return None
    word = rng.choice((ahead, behind))
    is_one = (first < second) == (word == ahead)
    if rng.random() < 0.5:
        return f"{word} {name} {other_name} {name if is_one else other_name}"
    return f"{name} {word} {other_name} {YES if is_one else NO}"
