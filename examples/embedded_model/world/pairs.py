"""Questions about two images, each with the one right answer.

They need both images, or the right one of the two: a model that looks at one of them, or mixes them up, is near
chance.
"""

import random
from collections.abc import Callable, Iterator

from embedded_model.world.language import describe, with_article
from embedded_model.world.questions import NO, YES, Question, ask
from embedded_model.world.scene import Item, Scene, make_scene


FIRST, SECOND, BOTH, NEITHER = "first", "second", "both", "neither"
ORDINALS = (FIRST, SECOND)
# What may be asked of one of the two images, named by its number.
_OF_ONE = ("color", "shape", "count", "place", "size", "word", "presence")
# Two images rarely agree.
_KEPT_DIFFERENCES = 0.35
_WHICH_TRAITS = (("shape",), ("color",), ("color", "shape"))


def ask_pair(scenes: tuple[Scene, Scene], kind: str, rng: random.Random) -> Question | None:
    """Asks one question of a kind about two images.

    Args:
        scenes: what the first and the second image show.
        kind: a key of `PAIR_KINDS`.
        rng: source of randomness for what is asked and how it is worded; it is advanced.

    Returns:
        The question, or None if the scenes give no unambiguous one of this kind.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in PAIR_KINDS:
        raise ValueError(f"Unknown kind of question {kind!r}: expected one of {', '.join(PAIR_KINDS)}.")
    pair = PAIR_KINDS[kind](scenes, rng)
    return None if pair is None else Question(kind, *pair)


def pair_questions_of_split(split: str, seed: int) -> Iterator[tuple[tuple[Scene, Scene], Question]]:
    """Yields single questions without end, each about two scenes of its own, the kinds taking turns.

    Args:
        split: the scenes' split.
        seed: seed of the stream.

    Yields:
        The two scenes and the question.
    """
    turn = 0
    for number in range(1 << 30):
        kind = tuple(PAIR_KINDS)[turn % len(PAIR_KINDS)]
        first = make_scene((seed << 32) + 2 * number, split)
        second = make_scene((seed << 32) + 2 * number + 1, split)
        question = ask_pair((first, second), kind, random.Random(f"pair/{seed}/{number}"))
        if question is not None:
            turn += 1
            yield (first, second), question


def _ask_of_one(scenes: tuple[Scene, Scene], rng: random.Random) -> tuple[str, str] | None:
    """Asks about one of the images; the other would give another answer, where it gives one."""
    index = rng.randrange(2)
    question = ask(scenes[index], rng.choice(_OF_ONE), rng)
    if question is None:
        return None
    return _point_at(question.text, ORDINALS[index]), question.answer


def _point_at(text: str, ordinal: str) -> str:
    """Makes a question about an image one about the first or the second image."""
    shown = f"in the {ordinal} picture"
    if "in the picture" in text:
        return text.replace("in the picture", shown)
    return f"{text[:-1]} {shown}{text[-1]}"


def _ask_which(scenes: tuple[Scene, Scene], rng: random.Random) -> tuple[str, str] | None:
    """Asks which image shows something; all four answers are about equally likely."""
    answer = rng.choice((FIRST, SECOND, BOTH, NEITHER))
    traits = rng.choice(_WHICH_TRAITS)
    shown = [{describe(item, traits) for item in scene.items} for scene in scenes]
    names = {
        FIRST: shown[0] - shown[1],
        SECOND: shown[1] - shown[0],
        BOTH: shown[0] & shown[1],
        NEITHER: _recombine(scenes, traits, rng) - shown[0] - shown[1],
    }[answer]
    if not names:
        return None
    text = rng.choice(("Which picture has a {}?", "Which picture is there a {} in?"))
    return with_article(text.format(rng.choice(sorted(names)))), answer


def _recombine(scenes: tuple[Scene, Scene], traits: tuple[str, ...], rng: random.Random) -> set[str]:
    """Names things made of traits that occur in the images, and a few that do not."""
    items = [*scenes[0].items, *scenes[1].items]
    mixed = (Item(rng.choice(items).shape, rng.choice(items).color, "small", 0, 0) for _ in range(8))
    anything = make_scene(rng.getrandbits(32)).items
    return {describe(item, traits) for item in (*mixed, *anything)}


def _ask_same(scenes: tuple[Scene, Scene], rng: random.Random) -> tuple[str, str] | None:
    """Asks whether both images agree in something; both answers are about equally likely."""
    texts: dict[str, Callable[[Scene], object]] = {
        "Is the background the same in both pictures?": lambda scene: scene.background,
        "Is there a word in both pictures?": lambda scene: scene.word is not None or None,
    }
    text = rng.choice(list(texts))
    first, second = map(texts[text], scenes)
    agree = first is not None and first == second
    return (text, YES if agree else NO) if agree or rng.random() < _KEPT_DIFFERENCES else None


def _ask_more(scenes: tuple[Scene, Scene], rng: random.Random) -> tuple[str, str] | None:
    first, second = (len(scene.items) for scene in scenes)
    if first == second:
        return None
    word = rng.choice(("more", "fewer"))
    text = rng.choice(("Which picture has {} shapes?", "Which has {} shapes, the first or the second picture?"))
    return text.format(word), FIRST if (first > second) == (word == "more") else SECOND


# Each takes ((first scene, second scene), rng) and returns (text, answer), or None where nothing can be asked.
PAIR_KINDS: dict[str, Callable[[tuple[Scene, Scene], random.Random], tuple[str, str] | None]] = {
    "of one": _ask_of_one,
    "which": _ask_which,
    "same": _ask_same,
    "more": _ask_more,
}
