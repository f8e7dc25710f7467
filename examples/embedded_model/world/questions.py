"""Questions about a scene, each with the one right answer.

A question is asked only where its answer is beyond doubt: "what color is the circle?" needs exactly one circle.
Yes/no questions are balanced, and their wrong variants are near misses (a colour and a shape that are both there, but
not together).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from embedded_model.world.language import at_place, caption, describe, place_name, pluralize, with_article
from embedded_model.world.scene import COLORS, SHAPES, SIZES, Item, Scene, make_scene


YES, NO = "yes", "no"
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
    """A question about a scene: its kind (a key of `KINDS`), its text and its answer."""

    kind: str
    text: str
    answer: str


def ask(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """Asks one question of a kind.

    Args:
        scene: what the image shows.
        kind: a key of `KINDS`.
        rng: source of randomness for what is asked and how it is worded; it is advanced.

    Returns:
        The question, or None if the scene gives no unambiguous one of this kind.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of question {kind!r}: expected one of {', '.join(KINDS)}.")
    pair = KINDS[kind](scene, rng)
    return None if pair is None else Question(kind, *pair)


def ask_several(scene: Scene, count: int, rng: random.Random, kinds: tuple[str, ...] | None = None) -> list[Question]:
    """Asks up to `count` different questions, of kinds drawn at random.

    Args:
        scene: what the image shows.
        count: how many to ask, 1 or more; a bare scene may give fewer.
        rng: source of randomness; it is advanced.
        kinds: keys of `KINDS`, among them one that every scene allows; all if None.

    Returns:
        Questions with different texts, at least one.
    """
    asked: dict[str, Question] = {}
    attempts = 0
    while not asked or (len(asked) < count and attempts < 4 * count):
        attempts += 1
        question = ask(scene, rng.choice(kinds or tuple(KINDS)), rng)
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())


def questions_of_split(
    split: str, seed: int, kinds: tuple[str, ...] | None = None
) -> Iterator[tuple[Scene, Question]]:
    """Yields single questions without end, each about a scene of its own, the kinds taking turns.

    Args:
        split: the scenes' split.
        seed: seed of the stream.
        kinds: the kinds of questions to ask; all if None.

    Yields:
        Scene and question.
    """
    turn = 0
    for number in range(1 << 30):
        kind = (kinds or tuple(KINDS))[turn % len(kinds or KINDS)]
        scene = make_scene((seed << 32) + number, split)
        question = ask(scene, kind, random.Random(f"question/{seed}/{number}"))
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


def _ask_color(scene: Scene, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.15:
        return "What color is the background?", scene.background
    item, phrase = _refer_or_point(scene, rng, without="color")
    text = rng.choice(("What color is the {}?", "What is the color of the {}?", "Which color does the {} have?"))
    return text.format(phrase), item.color


def _ask_shape(scene: Scene, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        item = rng.choice(scene.items)
        text, phrase = "{} shape is {}?", at_place(place_name(scene, item.row, item.column))
    else:
        item, phrase = _refer_or_point(scene, rng, without="shape")
        text = "{} kind of shape is the {}?"
    return text.format(rng.choice(("What", "Which")), phrase), item.shape


def _ask_count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    counts: dict[int, list[str]] = {}
    for wanted in scene.items:
        for traits in ((), ("shape",), ("color",), ("color", "shape"), ("size",)):
            count = sum(_matches(item, wanted, traits) for item in scene.items)
            counts.setdefault(count, []).append(pluralize(describe(wanted, traits)))
    # First the number, then what is counted: otherwise most answers would be 1.
    count = rng.choice(sorted(counts))
    text = rng.choice(("How many {} are there?", "How many {} are in the picture?", "How many {} do you see?"))
    return text.format(rng.choice(counts[count])), str(count)


def _ask_place(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    if scene.word is not None and rng.random() < 0.15:
        return "Where is the word?", place_name(scene, scene.word.row, scene.word.column)
    found = _refer(scene, rng)
    if found is None:
        return None
    text = rng.choice(("Where is the {}?", "Where do you see the {}?", "What is the position of the {}?"))
    return text.format(found[1]), place_name(scene, found[0].row, found[0].column)


def _ask_relation(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
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
            return _word_relation(names, relation, rng)
    return None


def _word_relation(names: list[str], relation: str, rng: random.Random) -> tuple[str, str]:
    """Words a question about two things of which the first is to the left of or above the second."""
    ahead, behind = ("left of", "right of") if relation == "left" else ("above", "below")
    if rng.random() < 0.5:
        place, answer = rng.choice(((ahead, names[0]), (behind, names[1])))
        further = {"left of": "further left", "right of": "further right", "above": "higher", "below": "lower"}[place]
        one, other = rng.sample(names, 2)
        return f"Which is {further}, the {one} or the {other}?", answer
    one, other = rng.sample(names, 2)
    place = rng.choice((ahead, behind))
    return f"Is the {one} {place} the {other}?", YES if (one == names[0]) == (place == ahead) else NO


def _ask_size(scene: Scene, rng: random.Random) -> tuple[str, str]:
    item, phrase = _refer_or_point(scene, rng, without="size")
    text = rng.choice(("What size is the {}?", "How big is the {}?", "Is the {} small or large?"))
    return text.format(phrase), item.size


def _ask_word(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    if scene.word is None:
        return None
    texts = (
        "What word is written in the picture?",
        "Which word do you see?",
        "What does the text say?",
        "Read the word.",
    )
    return rng.choice(texts), scene.word.text


def _ask_presence(scene: Scene, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.1:
        return "Is there a word in the picture?", YES if scene.word else NO
    traits = rng.choice((("shape",), ("color",), ("color", "shape"), ("color", "shape"), ("size", "shape")))
    # Both answers are equally likely for every wording, whatever the scene holds.
    there = rng.random() < 0.5
    wanted = rng.choice(scene.items) if there else _absent(scene, traits, rng)
    if wanted is None:
        there, wanted = True, rng.choice(scene.items)
    text = rng.choice(("Is there a {}?", "Is there a {} in the picture?", "Do you see a {}?"))
    name = describe(wanted, traits)
    return with_article(text.format(name)), YES if there else NO


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


def _ask_caption(scene: Scene, rng: random.Random) -> tuple[str, str]:
    texts = ("Describe the picture.", "Describe this image.", "What is in the picture?", "What do you see?")
    return rng.choice(texts), caption(scene)


# Each takes (scene, rng) and returns (text, answer), or None where nothing can be asked.
KINDS: dict[str, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
    "color": _ask_color,
    "shape": _ask_shape,
    "count": _ask_count,
    "place": _ask_place,
    "relation": _ask_relation,
    "size": _ask_size,
    "word": _ask_word,
    "presence": _ask_presence,
    "caption": _ask_caption,
}
# What is answered in a word or a few.
SHORT_KINDS = tuple(kind for kind in KINDS if kind != "caption")
