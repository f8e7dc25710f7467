import random

from xgenmm_hf.data.facts import fact
from xgenmm_hf.data.language import PLACES, describe, place_name, pluralize
from xgenmm_hf.data.scene import BACKGROUNDS, TRAIN, make_scene


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
            kind, right = "word", words[1] == scene.word.text
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
    assert seen >= {"background", "word", "color", "shape", "size", "yes", "no", "count", "contents", "place"}


def fits(item, name, plural=False):
    traits = [("shape",), ("color",), ("color", "shape"), ("size", "shape"), ("size", "color"), None]
    phrases = [describe(item, each) if each else describe(item) for each in traits]
    return name in ([pluralize(phrase) for phrase in phrases] if plural else phrases)


def test_facts_depend_on_the_seed_alone():
    assert list(scenes_with_facts(50)) == list(scenes_with_facts(50))
