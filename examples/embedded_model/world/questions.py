"""Questions about a scene, each with the one right answer.

A question is asked only where its answer is beyond doubt: "what color is the circle?" needs exactly one circle.
Yes/no questions are balanced, and their wrong variants are near misses (a color and a shape that are both there, but
not together).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from embedded_model.world.language import at_place, caption, describe, place_name, pluralize, with_article
from embedded_model.world.scene import COLORS, SHAPES, SIZES, TRAIN, WORDS, Item, Scene, make_scene
from embedded_model.world.wording import word


YES, NO = "yes", "no"
_COUNTED: tuple[tuple[str, ...], ...] = ((), ("shape",), ("color",), ("color", "shape"), ("size",))
# What has to be found among other things before it is counted.
_SELECTED = (("shape",), ("color",), ("color", "shape"))
_ZERO_SHARE, _RARE_ZERO_SHARE, _STRANGE_SHARE = 0.05, 0.25, 0.12
# What no scene holds, as people and benchmarks ask for it: held-out words, then trained ones.
STRANGE_THINGS = (
    ("cow", "table", "ball", "flower", "phone"),
    ("dog", "cat", "person", "man", "car", "tree", "house", "chair", "bird", "bottle", "book", "cup", "bus", "boat"),
)
_TRAITS = (
    ("shape",),
    ("color",),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color"),
    ("size", "color", "shape"),
)


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Args:
        kind: A key of `KINDS`, or a kind of another module.
        text: What is asked.
        answer: The answer in a word or a few.
        sentence: The answer as a whole sentence; empty where there is none.
        values: What the answer is one of ("color", "background", "shape", "count", "place", "size", "word"), if
            anything.
        options: The two things between which the question lets choose, if it does.
    """

    kind: str
    text: str
    answer: str
    sentence: str = ""
    values: str = ""
    options: tuple[str, ...] = ()


def ask(scene: Scene, kind: str, rng: random.Random, wording: str = TRAIN) -> Question | None:
    """Asks one question of a kind.

    Args:
        scene: What the image shows.
        kind: A key of `KINDS`.
        rng: Source of randomness for what is asked and how it is worded; it is advanced.
        wording: `TRAIN`, `HELD_OUT` or `PLAIN`, see `world.wording`.

    Returns:
        The question, or None if the scene gives no unambiguous one of this kind.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of question {kind!r}: expected one of {', '.join(KINDS)}.")
    return KINDS[kind](scene, rng, wording)


def ask_several(
    scene: Scene, count: int, rng: random.Random, kinds: tuple[str, ...] | None = None, wording: str = TRAIN
) -> list[Question]:
    """Asks up to `count` different questions, of kinds drawn at random.

    Args:
        scene: what the image shows.
        count: how many to ask, 1 or more; a bare scene may give fewer.
        rng: source of randomness; it is advanced.
        kinds: keys of `KINDS`, among them one that every scene allows; all if None.
        wording: as for `ask`.

    Returns:
        Questions with different texts, at least one.
    """
    asked: dict[str, Question] = {}
    attempts = 0
    while not asked or (len(asked) < count and attempts < 4 * count):
        attempts += 1
        question = ask(scene, rng.choice(kinds or tuple(KINDS)), rng, wording)
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())


def questions_of_split(
    split: str, seed: int, kinds: tuple[str, ...] | None = None, wording: str = TRAIN
) -> Iterator[tuple[Scene, Question]]:
    """Yields single questions without end, each about a scene of its own, the kinds taking turns.

    Args:
        split: the scenes' split.
        seed: seed of the stream.
        kinds: the kinds of questions to ask; all if None.
        wording: as for `ask`.

    Yields:
        Scene and question.
    """
    turn = 0
    for number in range(1 << 30):
        kind = (kinds or tuple(KINDS))[turn % len(kinds or KINDS)]
        scene = make_scene((seed << 32) + number, split)
        question = ask(scene, kind, random.Random(f"question/{seed}/{number}"), wording)
        if question is not None:
            turn += 1
            yield scene, question


def referring_traits(scene: Scene, item: Item, without: str | None = None) -> list[tuple[str, ...]]:
    """Lists the combinations of traits that only this item of the scene has.

    Args:
        scene: the scene the item is part of.
        item: one of its items.
        without: a trait that must not be used, because it is asked for.

    Returns:
        Tuples of trait names ("size", "color", "shape"), the shortest first.
    """
    return [
        traits
        for traits in _TRAITS
        if without not in traits and sum(_matches(other, item, traits) for other in scene.items) == 1
    ]


def _matches(item: Item, wanted: Item, traits: tuple[str, ...]) -> bool:
    """Tells whether two items agree in the given traits."""
    return all(getattr(item, trait) == getattr(wanted, trait) for trait in traits)


def _refer(scene: Scene, rng: random.Random, without: str | None = None) -> tuple[Item, str] | None:
    """Picks an item and a phrase of its traits that means it and no other, or None if every item has a double."""
    items = list(scene.items)
    rng.shuffle(items)
    for item in items:
        traits = referring_traits(scene, item, without)
        if traits:
            return item, describe(item, rng.choice(traits[:2]))
    return None


def _refer_or_point(scene: Scene, rng: random.Random, without: str) -> tuple[Item, str]:
    """Picks an item and a phrase that means it: by its traits, or by its place."""
    found = None if rng.random() < 0.3 else _refer(scene, rng, without)
    if found is not None:
        return found
    item = rng.choice(scene.items)
    return item, f"shape {at_place(place_name(scene, item.row, item.column))}"


def _ask_color(scene: Scene, rng: random.Random, wording: str) -> Question:
    if rng.random() < 0.15:
        text = word("color", rng, wording, "background")
        return Question("color", text, scene.background, f"The background is {scene.background}.", "background")
    item, phrase = _refer_or_point(scene, rng, without="color")
    return Question(
        "color", word("color", rng, wording, phrase), item.color, f"The {phrase} is {item.color}.", "color"
    )


def _ask_shape(scene: Scene, rng: random.Random, wording: str) -> Question:
    if rng.random() < 0.5:
        item = rng.choice(scene.items)
        phrase = f"shape {at_place(place_name(scene, item.row, item.column))}"
        text = word("shape at", rng, wording, place=phrase.removeprefix("shape "))
    else:
        item, phrase = _refer_or_point(scene, rng, without="shape")
        text = word("shape", rng, wording, phrase)
    return Question("shape", text, item.shape, f"The {phrase} is a {item.shape}.", "shape")


def _ask_count(scene: Scene, rng: random.Random, wording: str) -> Question:
    counts: dict[int, list[tuple[Item, tuple[str, ...]]]] = {}
    for wanted in scene.items:
        for traits in _COUNTED:
            number = sum(_matches(item, wanted, traits) for item in scene.items)
            counts.setdefault(number, []).append((wanted, traits))
    if rng.random() < _ZERO_SHARE and (missing := _absent(scene, ("color", "shape"), rng)):
        counts = {0: [(missing, ("color", "shape"))]}
    # First the number, then what is counted: otherwise most answers would be 1.
    number = rng.choice(sorted(counts))
    return _number("count", *rng.choice(counts[number]), number, rng, wording)


def _ask_rare_count(scene: Scene, rng: random.Random, wording: str) -> Question | None:
    """Asks how many there are of a shape or color, which takes finding them: mostly more than one, or none at all."""
    traits = rng.choice(_SELECTED)
    if rng.random() < _RARE_ZERO_SHARE and (missing := _absent(scene, traits, rng)):
        return _number("rare count", missing, traits, 0, rng, wording)
    counts = [sum(_matches(item, wanted, traits) for item in scene.items) for wanted in scene.items]
    number, wanted = rng.choices([*zip(counts, scene.items, strict=True)], weights=[each**2 for each in counts])[0]
    if number == 1 and rng.random() < 0.8:
        return None
    return _number("rare count", wanted, traits, number, rng, wording)


def _number(
    kind: str, counted: Item, traits: tuple[str, ...], number: int, rng: random.Random, wording: str
) -> Question:
    name = describe(counted, traits)
    said = f"There is 1 {name}." if number == 1 else f"There are {number or 'no'} {pluralize(name)}."
    return Question(kind, word("count", rng, wording, pluralize(name)), str(number), said, "count")


def _ask_place(scene: Scene, rng: random.Random, wording: str) -> Question | None:
    if scene.word is not None and rng.random() < 0.15:
        phrase, place = "word", place_name(scene, scene.word.row, scene.word.column)
    else:
        found = _refer(scene, rng)
        if found is None:
            return None
        phrase, place = found[1], place_name(scene, found[0].row, found[0].column)
    text = word("place", rng, wording, phrase)
    return Question("place", text, place, f"The {phrase} is {at_place(place)}.", "place")


def _ask_all_places(scene: Scene, rng: random.Random, wording: str) -> Question | None:
    """Asks where all things of a kind are, which is what counting has to find first."""
    wanted, traits = rng.choice(scene.items), rng.choice(_COUNTED)
    found = [item for item in scene.items if _matches(item, wanted, traits)]
    if len(found) < 2 and rng.random() < 0.7:
        return None
    places = [place_name(scene, item.row, item.column) for item in found]
    named = places[0] if len(places) == 1 else f"{', '.join(places[:-1])} and {places[-1]}"
    text = word("all places", rng, wording, pluralize(describe(wanted, traits)))
    return Question("all places", text, named)


def _ask_relation(scene: Scene, rng: random.Random, wording: str) -> Question | None:
    pairs = []
    for first in scene.items:
        for second in scene.items:
            pairs += [(first, second, "left")] if first.column < second.column else []
            pairs += [(first, second, "above")] if first.row < second.row else []
    rng.shuffle(pairs)
    for first, second, relation in pairs:
        traits = [referring_traits(scene, item) for item in (first, second)]
        if all(traits):
            names = [describe(item, rng.choice(own[:2])) for item, own in zip((first, second), traits, strict=True)]
            return _word_relation(names, relation, rng, wording)
    return None


def _word_relation(names: list[str], relation: str, rng: random.Random, wording: str) -> Question:
    """Words a question about two things of which the first is to the left of or above the second."""
    ahead, behind = ("left of", "right of") if relation == "left" else ("above", "below")
    one, other = rng.sample(names, 2)
    if rng.random() < 0.5:
        place, answer = rng.choice(((ahead, names[0]), (behind, names[1])))
        further = {"left of": "further left", "right of": "further right", "above": "higher", "below": "lower"}[place]
        text = word("which", rng, wording, further=further, one=one, other=other)
        return Question("relation", text, answer, f"The {answer} is {further}.", options=(one, other))
    place = rng.choice((ahead, behind))
    true = (one == names[0]) == (place == ahead)
    said = place if place in ("above", "below") or wording != TRAIN else rng.choice((place, f"to the {place}"))
    text = word("whether", rng, wording, one=one, relation=said, other=other)
    return _yes_or_no("relation", text, true, f"the {one} is {{}}{place} the {other}")


def _yes_or_no(kind: str, text: str, true: bool, statement: str) -> Question:
    """Makes a yes/no question; `{}` in the statement is where "not" goes."""
    sentence = f"{'Yes' if true else 'No'}, {statement.format('' if true else 'not ')}."
    return Question(kind, text, YES if true else NO, sentence)


def _ask_size(scene: Scene, rng: random.Random, wording: str) -> Question:
    item, phrase = _refer_or_point(scene, rng, without="size")
    return Question("size", word("size", rng, wording, phrase), item.size, f"The {phrase} is {item.size}.", "size")


def _ask_word(scene: Scene, rng: random.Random, wording: str) -> Question | None:
    if scene.word is None:
        return None
    text = scene.word.text
    return Question("word", word("word", rng, wording), text, f"The word is {text}.", "word")


def _ask_presence(scene: Scene, rng: random.Random, wording: str) -> Question:
    if rng.random() < 0.1:
        there, name = scene.word is not None, "word"
    else:
        traits = rng.choice((("shape",), ("color",), ("color", "shape"), ("color", "shape"), ("size", "shape")))
        # Both answers are equally likely for every wording, whatever the scene holds.
        there = rng.random() < 0.5
        wanted = rng.choice(scene.items) if there else _absent(scene, traits, rng)
        if wanted is None:
            there, wanted = True, rng.choice(scene.items)
        name = describe(wanted, traits)
    if not there and rng.random() < _STRANGE_SHARE:
        name = rng.choice(STRANGE_THINGS[wording == TRAIN])
    sentence = f"Yes, there is a {name}." if there else f"No, there is no {name}."
    return Question("presence", word("presence", rng, wording, name), YES if there else NO, with_article(sentence))


def _ask_check(scene: Scene, rng: random.Random, wording: str) -> Question | None:
    """Asks whether something that could be asked for is so; the wrong variants are other values of the same kind."""
    kind = rng.choice(("color", "count", "place", "word"))
    true = rng.random() < 0.5
    if kind == "word":
        if scene.word is None:
            return None
        value = scene.word.text if true else rng.choice([text for text in WORDS if text != scene.word.text])
        return _yes_or_no("check", word("check word", rng, wording, value=value), true, f"the word is {{}}{value}")
    if kind == "count":
        wanted, traits = rng.choice(scene.items), rng.choice(_COUNTED)
        number = sum(_matches(item, wanted, traits) for item in scene.items)
        if not true:
            number = rng.choice([other for other in (number - 1, number + 1, number + 2) if other > 1])
        if number < 2:
            return None
        name = pluralize(describe(wanted, traits))
        text = word("check count", rng, wording, name, value=str(number))
        return _yes_or_no("check", text, true, f"there are {{}}{number} {name}")
    found = _refer(scene, rng, without="color" if kind == "color" else None)
    if found is None:
        return None
    item, phrase = found
    if kind == "color":
        value = item.color if true else rng.choice([color for color in COLORS if color != item.color])
    else:
        here = place_name(scene, item.row, item.column)
        places = [place_name(scene, row, column) for row in range(scene.rows) for column in range(scene.columns)]
        value = at_place(here if true else rng.choice([place for place in places if place != here]))
    return _yes_or_no(
        "check", word(f"check {kind}", rng, wording, phrase, value=value), true, f"the {phrase} is {{}}{value}"
    )


def _absent(scene: Scene, traits: tuple[str, ...], rng: random.Random) -> Item | None:
    """Returns something that is not in the scene: if possible a recombination of traits that are."""
    seen = [[getattr(item, trait) for item in scene.items] for trait in ("shape", "color", "size")]
    everything = (SHAPES, COLORS, SIZES)
    pools = (seen, everything, everything) if rng.random() < 0.6 else (everything, everything, everything)
    for pool in pools:
        for _ in range(8):
            shape, color, size = (rng.choice(values) for values in pool)
            candidate = Item(shape, color, size, 0, 0)
            if not any(_matches(item, candidate, traits) for item in scene.items):
                return candidate
    return None


def _ask_caption(scene: Scene, rng: random.Random, wording: str) -> Question:
    return Question("caption", word("caption", rng, wording), caption(scene))


# Each takes (scene, rng, wording) and returns a question, or None where nothing can be asked.
KINDS: dict[str, Callable[[Scene, random.Random, str], Question | None]] = {
    "color": _ask_color,
    "shape": _ask_shape,
    "count": _ask_count,
    "place": _ask_place,
    "relation": _ask_relation,
    "size": _ask_size,
    "word": _ask_word,
    "presence": _ask_presence,
    "caption": _ask_caption,
    "check": _ask_check,
    "all places": _ask_all_places,
    "rare count": _ask_rare_count,
}
# What is answered in a word or a few, and what is asked besides in training.
SHORT_KINDS = ("color", "shape", "count", "place", "relation", "size", "word", "presence")
FURTHER_KINDS = ("check", "all places")
