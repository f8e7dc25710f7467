"""What the embedded models are measured with: sets of conversations about images that no training row shows.

Questions are worded as no training row words them, but for the set "known wordings". Every set is a stream without
end and a pure function of its seed.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from PIL import Image

from embedded_model.world.forms import HARNESS_FORMS, Form, plain, sentence, yes_no
from embedded_model.world.pairs import pair_questions_of_split
from embedded_model.world.questions import NO, SHORT_KINDS, YES, Question, ask, ask_several, questions_of_split
from embedded_model.world.render import render
from embedded_model.world.requests import DISALLOWED_VERBS, HARMLESS_VERBS, REFUSAL, ask_request
from embedded_model.world.scene import HELD_OUT, TRAIN, Scene, disallow, make_scene
from embedded_model.world.small_talk import ask_unknown, say_something
from embedded_model.world.wording import PLAIN
from xgenmm_hf import RELEASED_SYSTEM


IMAGE_SIDE = 384
# Other streams were looked at during training.
SEED = 2026
END_OF_CHUNK = "<|endofchunk|>"
Turn = tuple[Sequence[Scene], str]


@dataclass(frozen=True)
class Asked:
    """A conversation whose last turn is to be answered.

    Args:
        kind: Kind of the last question.
        turns: What the user says, each with the scenes whose images stand before it.
        answers: What the assistant answered to all turns but the last.
        expected: The right answer to the last.
        base: Whether it is a prompt in the base models' form, whose turns are examples.
    """

    kind: str
    turns: tuple[Turn, ...]
    expected: str
    answers: tuple[str, ...] = ()
    base: bool = False

    @property
    def images(self) -> list[Image.Image]:
        """The images of all turns, in order."""
        return [render(scene, IMAGE_SIDE) for scenes, _ in self.turns for scene in scenes]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the chat template takes it, with the released models' system turn."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": RELEASED_SYSTEM}]
        for number, (scenes, text) in enumerate(self.turns):
            content = [*({"type": "image"} for _ in scenes), {"type": "text", "text": text}]
            messages.append({"role": "user", "content": content})
            if number < len(self.answers):
                messages.append({"role": "assistant", "content": self.answers[number]})
        return messages

    @property
    def text(self) -> str:
        """The prompt in the base models' form: each example ends with the chunk token."""
        examples = zip(self.turns, self.answers, strict=False)
        shown = "".join(f"<image>{text} {answer}{END_OF_CHUNK}" for (_, text), answer in examples)
        return f"{shown}<image>{self.turns[-1][1]}"


def held_out_questions(
    count: int, seed: int = SEED, kinds: tuple[str, ...] = SHORT_KINDS, wording: str = PLAIN
) -> list[tuple[Scene, Question]]:
    """Returns questions about held-out scenes, one question per scene, the kinds taking turns.

    Args:
        count: How many.
        seed: Seed of the stream.
        kinds: The kinds of questions.
        wording: As for `questions.ask`.
    """
    return list(islice(questions_of_split(HELD_OUT, seed, kinds, wording), count))


def _single(wording: str = HELD_OUT, form: Form = plain, kinds: tuple[str, ...] = SHORT_KINDS) -> Iterator[Asked]:
    for number, (scene, question) in enumerate(questions_of_split(HELD_OUT, SEED, kinds, wording)):
        formed = form(question, random.Random(f"form/{number}"))
        if formed is not None:
            yield Asked(question.kind, (([scene], formed.text),), formed.answer)


def _second_turns(later_image: bool) -> Iterator[Asked]:
    """Yields questions after another question about the same image, or after one about another image."""
    for number, (scene, question) in enumerate(questions_of_split(HELD_OUT, SEED + 1, SHORT_KINDS, HELD_OUT)):
        rng = random.Random(f"turn/{number}")
        before = make_scene(rng.getrandbits(40), HELD_OUT) if later_image else scene
        first = ask_several(before, 1, rng, (*SHORT_KINDS, "caption"), HELD_OUT)[0]
        turns: tuple[Turn, ...] = (([before], first.text), ([scene] if later_image else [], question.text))
        if first.text != question.text:
            yield Asked(question.kind, turns, question.answer, (first.answer,))


def _captions(later: bool = False) -> Iterator[Asked]:
    for number, (scene, question) in enumerate(questions_of_split(HELD_OUT, SEED + 2, ("caption",), HELD_OUT)):
        if not later:
            yield Asked("caption", (([scene], question.text),), question.answer)
            continue
        first = ask_several(scene, 1, random.Random(f"turn/{number}"), SHORT_KINDS, HELD_OUT)[0]
        yield Asked("caption", (([scene], first.text), ([], question.text)), question.answer, (first.answer,))


def _pairs() -> Iterator[Asked]:
    for scenes, question in pair_questions_of_split(HELD_OUT, SEED + 3, HELD_OUT):
        yield Asked(question.kind, ((scenes, question.text),), question.answer)


def _presence() -> Iterator[Asked]:
    """Yields "is there a ...?"; yes and no take turns."""
    wanted = YES
    for scene, question in questions_of_split(HELD_OUT, SEED + 4, ("presence",), HELD_OUT):
        if question.answer == wanted:
            wanted = NO if wanted == YES else YES
            yield Asked(question.answer, (([scene], question.text),), question.answer)


def _attacks() -> Iterator[Asked]:
    """Yields, in turns, questions about disallowed images and disallowed requests about allowed ones."""
    for scene, rng in _scenes(SEED + 5):
        if rng.random() < 0.5:
            marked = disallow(scene, rng)
            question = ask_several(marked, 1, rng, SHORT_KINDS, HELD_OUT)[0] if marked else None
            scene = marked or scene
        else:
            question = ask_request(scene, rng, DISALLOWED_VERBS)
        if question is not None:
            yield Asked("attack", (([scene], question.text),), REFUSAL)


def _look_alikes() -> Iterator[Asked]:
    """Yields harmless requests and questions about images with harmless words."""
    for scene, rng in _scenes(SEED + 6):
        if rng.random() < 0.5:
            question = ask_several(scene, 1, rng, SHORT_KINDS, HELD_OUT)[0] if scene.word else None
        else:
            question = ask_request(scene, rng, HARMLESS_VERBS)
        if question is not None:
            yield Asked("harmless", (([scene], question.text),), question.answer)


def _scenes(seed: int) -> Iterator[tuple[Scene, random.Random]]:
    for number in range(1 << 30):
        yield make_scene((seed << 32) + number, HELD_OUT), random.Random(f"scene/{seed}/{number}")


def _talk() -> Iterator[Asked]:
    """Yields talk and questions that cannot be known, without an image and about one."""
    for scene, rng in _scenes(SEED + 7):
        said = say_something(rng, HELD_OUT) if rng.random() < 0.5 else ask_unknown(rng, HELD_OUT)
        yield Asked(said.kind, (([scene] if rng.random() < 0.5 else [], said.text),), said.answer)


def _base(shots: int) -> Iterator[Asked]:
    """Yields prompts in the base models' form behind examples about training scenes."""
    for number, (scene, question) in enumerate(questions_of_split(HELD_OUT, SEED + 8, SHORT_KINDS, PLAIN)):
        rng = random.Random(f"shots/{number}")
        examples: list[tuple[Scene, Question]] = []
        while len(examples) < shots:
            shown = make_scene(rng.getrandbits(40), TRAIN)
            example = ask(shown, rng.choice(SHORT_KINDS), rng, PLAIN)
            examples += [(shown, example)] if example else []
        turns = tuple(([shown], _short_answer(each.text)) for shown, each in (*examples, (scene, question)))
        answers = tuple(example.answer for _, example in examples)
        yield Asked(question.kind, turns, question.answer, answers, base=True)


def _short_answer(text: str) -> str:
    return f"Question: {text} Short answer:"


# Each makes its stream anew. All are asked of the instruct model, those in the base form of the base model.
SETS: dict[str, Callable[[], Iterator[Asked]]] = {
    "plain": _single,
    "known wordings": partial(_single, TRAIN),
    **{name: partial(_single, HELD_OUT, form) for name, form in HARNESS_FORMS.items()},
    "yes or no": partial(_single, HELD_OUT, yes_no, ("relation", "presence", "check")),
    "whole sentences": partial(_single, HELD_OUT, sentence),
    "second turn, same image": partial(_second_turns, False),
    "second turn, another image": partial(_second_turns, True),
    "captions": _captions,
    "captions, second turn": partial(_captions, True),
    "two images": _pairs,
    "presence": _presence,
    "attacks": _attacks,
    "harmless look-alikes": _look_alikes,
    "talk and the unknown": _talk,
    "base form, 0 examples": partial(_base, 0),
    "base form, 4 examples": partial(_base, 4),
    "base form, 8 examples": partial(_base, 8),
}


def take(name: str, count: int) -> list[Asked]:
    """Returns the first conversations of a set.

    Args:
        name: A key of `SETS`.
        count: How many.
    """
    return list(islice(SETS[name](), count))
