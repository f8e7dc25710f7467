import itertools
import random

from embedded_model.world.facts import fact
from embedded_model.world.language import PLACES, describe, place_name, pluralize
from embedded_model.world.scene import BACKGROUNDS, TRAIN, make_scene


def scenes_with_facts(count=1500):
    rng = random.Random(0)
    for seed in range(count):
        scene = make_scene(seed, TRAIN)
        yield scene, fact(scene, rng)


def test_facts_are_true():
    seen = set()
    for scene, text in scenes_with_facts():
        names = {place_name(scene, item.row, item.column): item for item in scene.items}
        words = text.split()
        if words[0] == "background":
            kind, right = "background", words[1] == scene.background and words[1] in BACKGROUNDS
        elif words[0] == "word":
            word = scene.word
            kind, right = "word", text[5:] in (word.text, place_name(scene, word.row, word.column))
        elif {"left", "right", "higher", "lower"} & set(words) and is_relation(scene, text):
            kind, right = "relation", is_relation(scene, text) == "true"
        elif words[0] in ("color", "shape", "size"):
            place = " ".join(words[1:-1])
            kind, right = words[0], getattr(names[place], words[0]) == words[-1]
        elif words[-1] in ("yes", "no"):
            name = " ".join(words[:-1]).rstrip("?")
            kind, right = words[-1], (words[-1] == "yes") == any(fits(item, name) for item in scene.items)
        elif words[-1].isdigit():
            name = " ".join(words[:-1])
            kind, right = "count", int(words[-1]) == sum(fits(item, name, plural=True) for item in scene.items)
        elif text in {f"{place} {describe(item)}" for place, item in names.items()}:
            kind, right = "contents", True
        else:
            place = next(place for place in sorted(PLACES, key=len, reverse=True) if text.endswith(f" {place}"))
            name = text.removesuffix(f" {place}")
            kind, right = "place", [at for at, item in names.items() if fits(item, name)] == [place]
        assert right, (text, scene)
        seen.add(kind)
    assert seen >= {
        "background",
        "word",
        "color",
        "shape",
        "size",
        "yes",
        "no",
        "count",
        "contents",
        "place",
        "relation",
    }


def is_relation(scene, text):
    """Tells whether a text compares two things of the scene, and whether it is right."""
    orders = {"left": "column", "right": "column", "higher": "row", "lower": "row"}
    named = [(item, name) for item in scene.items for name in phrases_of(item) if unique(scene, name)]
    for (one, name), (other, other_name) in itertools.permutations(named, 2):
        for word, axis in orders.items():
            holds = (getattr(one, axis) < getattr(other, axis)) == (word in ("left", "higher"))
            if text.startswith(f"{name} {word} {other_name} "):
                return "true" if text.endswith(" yes" if holds else " no") else "false"
            if one is not other and text == f"{word} {name} {other_name} {name if holds else other_name}":
                return "true"
    return ""


def unique(scene, name):
    return sum(fits(item, name) for item in scene.items) == 1


def phrases_of(item):
    traits = [("shape",), ("color",), ("color", "shape"), ("size", "shape"), ("size", "color"), None]
    return [describe(item, each) if each else describe(item) for each in traits]


def fits(item, name, plural=False):
    phrases = phrases_of(item)
    return name in ([pluralize(phrase) for phrase in phrases] if plural else phrases)


def test_facts_depend_on_the_seed_alone():
    assert list(scenes_with_facts(50)) == list(scenes_with_facts(50))
