"""Questions about two images, each with the one right answer.

They need both images, or the right one of the two: a model that looks at one of them, or mixes them up, is near
chance.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from embedded_model.world.language import caption, describe
from embedded_model.world.questions import NO, YES, Question, ask
from embedded_model.world.scene import TRAIN, Item, Scene, make_scene
from embedded_model.world.wording import ORDINALS, point_at, word


FIRST, SECOND, BOTH, NEITHER = *ORDINALS, "both", "neither"
Scenes = tuple[Scene, Scene]
# What may be asked of one of the two images, named by its number.
_OF_ONE = ("color", "shape", "count", "place", "size", "word", "presence")
# Two images rarely agree.
_KEPT_DIFFERENCES = 0.35
_WHICH_TRAITS = (("shape",), ("color",), ("color", "shape"))


def ask_pair(scenes: Scenes, kind: str, rng: random.Random, wording: str = TRAIN) -> Question | None:
    """Asks one question of a kind about two images.

    Args:
        scenes: what the first and the second image show.
        kind: a key of `PAIR_KINDS`.
        rng: source of randomness for what is asked and how it is worded; it is advanced.
        wording: as for `questions.ask`.

    Returns:
        The question, or None if the scenes give no unambiguous one of this kind.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in PAIR_KINDS:
        raise ValueError(f"Unknown kind of question {kind!r}: expected one of {', '.join(PAIR_KINDS)}.")
    return PAIR_KINDS[kind](scenes, rng, wording)


def pair_questions_of_split(
    split: str, seed: int, wording: str = TRAIN, kinds: tuple[str, ...] = ("of one", "which", "same", "more")
) -> Iterator[tuple[Scenes, Question]]:
    """Yields single questions without end, each about two scenes of its own, the kinds taking turns.

    Args:
        split: the scenes' split.
        seed: seed of the stream.
        wording: as for `questions.ask`.
        kinds: the kinds of questions.

    Yields:
        The two scenes and the question.
    """
    turn = 0
    for number in range(1 << 30):
        first = make_scene((seed << 32) + 2 * number, split)
        second = make_scene((seed << 32) + 2 * number + 1, split)
        question = ask_pair((first, second), kinds[turn % len(kinds)], random.Random(f"pair/{seed}/{number}"), wording)
        if question is not None:
            turn += 1
            yield (first, second), question


def _ask_of_one(scenes: Scenes, rng: random.Random, wording: str) -> Question | None:
    """Asks about one of the images; the other would give another answer, where it gives one."""
    index = rng.randrange(2)
    question = ask(scenes[index], rng.choice(_OF_ONE), rng, wording)
    return question and replace(question, kind="of one", text=point_at(question.text, ORDINALS[index], rng))


def _ask_which(scenes: Scenes, rng: random.Random, wording: str) -> Question | None:
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
    text = word("which image", rng, wording, rng.choice(sorted(names)))
    return Question("which", text, answer, options=(FIRST, SECOND, BOTH, NEITHER))


def _recombine(scenes: Scenes, traits: tuple[str, ...], rng: random.Random) -> set[str]:
    """Names things made of traits that occur in the images, and a few that do not."""
    items = [*scenes[0].items, *scenes[1].items]
    mixed = (Item(rng.choice(items).shape, rng.choice(items).color, "small", 0, 0) for _ in range(8))
    anything = make_scene(rng.getrandbits(32)).items
    return {describe(item, traits) for item in (*mixed, *anything)}


def _ask_same(scenes: Scenes, rng: random.Random, wording: str) -> Question | None:
    """Asks whether both images agree in something; both answers are about equally likely."""
    values: dict[str, Callable[[Scene], object]] = {
        "same background": lambda scene: scene.background,
        "both word": lambda scene: scene.word is not None or None,
    }
    name = rng.choice(list(values))
    first, second = map(values[name], scenes)
    agree = first is not None and first == second
    if not agree and rng.random() >= _KEPT_DIFFERENCES:
        return None
    return Question("same", word(name, rng, wording), YES if agree else NO)


def _ask_more(scenes: Scenes, rng: random.Random, wording: str) -> Question | None:
    first, second = (len(scene.items) for scene in scenes)
    if first == second:
        return None
    more = rng.choice(("more", "fewer"))
    answer = FIRST if (first > second) == (more == "more") else SECOND
    return Question("more", word("which more", rng, wording, more), answer, options=ORDINALS)


def _ask_caption(scenes: Scenes, rng: random.Random, wording: str) -> Question:
    index = rng.randrange(2)
    return Question("caption", point_at(word("caption", rng, wording), ORDINALS[index], rng), caption(scenes[index]))


# Each takes ((first scene, second scene), rng, wording) and returns a question, or None where nothing can be asked.
PAIR_KINDS: dict[str, Callable[[Scenes, random.Random, str], Question | None]] = {
    "of one": _ask_of_one,
    "which": _ask_which,
    "same": _ask_same,
    "more": _ask_more,
    "caption": _ask_caption,
}
