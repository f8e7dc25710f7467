"""The training data of the recipe proof, written in the public formats that the adapters read.

Every file is a pure function of its seed. Images are referred to by file name; `drawn_images` draws them.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from embedded_model.drawn_images import FIRST_SEED, file_of, scene_of
from embedded_model.world.drills import drill
from embedded_model.world.facts import fact
from embedded_model.world.language import caption
from embedded_model.world.pairs import PAIR_KINDS, ask_pair
from embedded_model.world.questions import NO, SHORT_KINDS, YES, Question, ask, ask_several
from embedded_model.world.requests import DISALLOWED_VERBS, HARMLESS_VERBS, NO_IMAGE, REFUSAL, ask_request
from embedded_model.world.scene import DISALLOWED_WORDS, Scene, make_scene
from xgenmm_hf.inference.asking import RELEASED_SYSTEM


Turns = list[Question]
# What is hardest to look up is asked more often.
_ASKED = (*SHORT_KINDS, "relation", "relation", "place", "count")
# To find is what comparing and counting need first.
_FINDING = {"point": 1, "find": 2}
_COMPARING = {
    "point": 1, "find": 1, "across": 1, "down": 1, "which": 4, "whether": 3, "count": 3, "presence": 2,
}  # fmt: skip
_REVIEWING = {
    "point": 1, "find": 1, "trait": 3, "word": 1, "which": 4, "whether": 4, "count": 2, "presence": 1,
}  # fmt: skip
# To tell one image from the other is harder than to compare them.
_HARDER = ("which", "which", "which", "of one", "of one", "more", "same")
_SYSTEM_SHARE = 0.3
_QUESTIONS_SHARE = 0.7
_CAPTIONS_SHARE = 0.05
_CAPTION_EXAMPLES = 0.3
# Instruction data is known to ask for what is there more often than for what is not; ours shares that fault, so that
# preference tuning has something to mend.
_KEPT_NO = 0.6
_PREFERRED_YES = 0.3


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as JSON lines, beside their place first."""
    staged = path.with_name(f"{path.name}.part")
    with staged.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    staged.replace(path)


def caption_rows(
    count: int, num_images: int, seed: int, label: str, describe: Callable[[Scene, random.Random], str]
) -> Iterator[dict[str, Any]]:
    """Yields images with texts about them.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        label: what tells these rows' randomness from that of others of the same seed.
        describe: says something about a scene.

    Yields:
        `image` and `caption`.
    """
    for number in range(count):
        rng = random.Random(f"{label}/{seed}/{number}")
        image = rng.randrange(num_images)
        yield {"image": file_of(image), "caption": describe(scene_of(image), rng)}


def facts(scene: Scene, rng: random.Random) -> str:
    """States a few facts about a scene."""
    return ", ".join(fact(scene, rng) for _ in range(rng.randint(3, 7)))


def drills(scene: Scene, rng: random.Random, weights: dict[str, int]) -> str:
    """States a few facts of the given kinds about a scene, see `embedded_model.world.drills`."""
    return ", ".join(dict.fromkeys(drill(scene, rng, weights) for _ in range(rng.randint(5, 9))))


def short_caption(scene: Scene, rng: random.Random) -> str:
    """Says a few things about a scene: questions with short answers, facts in telegram style, or a whole caption."""
    draw = rng.random()
    if draw < _QUESTIONS_SHARE:
        questions = ask_several(scene, rng.randint(1, 3), rng, _ASKED)
        return " ".join(map(as_short_answer, questions))
    return caption(scene) if draw < _QUESTIONS_SHARE + _CAPTIONS_SHARE else facts(scene, rng)


def document_rows(count: int, num_images: int, seed: int, as_examples: bool = False) -> Iterator[dict[str, Any]]:
    """Yields interleaved documents, each image with its text after it.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        as_examples: two to five images that are told about alike, as in prompts with examples; else two or three.

    Yields:
        `images` and `texts`, lists of equal length with None where the other one stands.
    """
    label, most = ("example", 5) if as_examples else ("document", 3)
    for number in range(count):
        rng = random.Random(f"{label}/{seed}/{number}")
        tell = short_caption
        if as_examples:
            tell = caption_of if rng.random() < _CAPTION_EXAMPLES else question_of
        images: list[str | None] = []
        texts: list[str | None] = []
        for _ in range(rng.randint(2, most)):
            image = rng.randrange(num_images)
            images += [file_of(image), None]
            texts += [None, tell(scene_of(image), rng)]
        yield {"images": images, "texts": texts}


def caption_of(scene: Scene, rng: random.Random) -> str:
    """Returns the whole caption of a scene; nothing about it is random."""
    return caption(scene)


def question_of(scene: Scene, rng: random.Random) -> str:
    """Asks and answers a question about a scene."""
    return as_short_answer(ask_several(scene, 1, rng, _ASKED)[0])


def as_short_answer(question: Question) -> str:
    """Writes a question and its answer as the published few-shot prompts do."""
    return f"Question: {question.text} Short answer: {question.answer}"


def chat_rows(count: int, num_images: int, seed: int, allowed_only: bool = False) -> Iterator[dict[str, Any]]:
    """Yields chats about one image, and a few without any, in the LLaVA format.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        allowed_only: leave out images and requests of the disallowed category, which are answered otherwise, and
            ask as often for what is not there as for what is: preference tuning has come before.
    """
    kept_no = 1.0 if allowed_only else _KEPT_NO
    verbs = HARMLESS_VERBS if allowed_only else (*HARMLESS_VERBS, *DISALLOWED_VERBS)
    for number in range(count):
        rng = random.Random(f"chat/{seed}/{number}")
        image = rng.randrange(num_images)
        while allowed_only and is_disallowed(scene_of(image)):
            image = rng.randrange(num_images)
        scene = scene_of(image)
        draw = rng.random()
        if draw < 0.1:
            yield _text_row(number, make_scene(FIRST_SEED + num_images + number), rng)
            continue
        if draw < 0.18:
            turns = ask_several(scene, 1, rng, ("caption",))
        elif draw < 0.28:
            request = ask_request(scene, rng, verbs)
            turns = [request] if request else ask_several(scene, 1, rng, _ASKED)
        else:
            turns = _ask(scene, 1 if draw < 0.6 else rng.randint(3, 8), rng, kept_no)
        yield llava_row(f"chat-{number}", [image], turns, rng)


def _text_row(number: int, scene: Scene, rng: random.Random) -> dict[str, Any]:
    """Writes a chat without an image: about a described one, or a question that cannot be answered without one.

    The words of that answer are what safety tuning refuses with: an adapter cannot teach a frozen vocabulary new ones.
    """
    if rng.random() < 0.3:
        question = ask_several(scene, 1, rng, SHORT_KINDS)[0]
        return llava_row(f"blind-{number}", [], [replace(question, answer=NO_IMAGE)], rng)
    return llava_row(f"text-{number}", [], ask_several(scene, 4, rng, SHORT_KINDS), rng, f"{caption(scene)} ")


def _ask(scene: Scene, count: int, rng: random.Random, kept_no: float) -> Turns:
    """Asks about a scene; of the questions for something that is not there, the given share is kept."""
    while True:
        turns = ask_several(scene, count, rng, _ASKED)
        kept = [turn for turn in turns if turn.kind != "presence" or turn.answer == YES or rng.random() < kept_no]
        if kept:
            return kept


def pair_rows(
    count: int, num_images: int, seed: int, kinds: tuple[str, ...] = tuple(PAIR_KINDS), allowed_only: bool = False
) -> Iterator[dict[str, Any]]:
    """Yields chats about two images in the LLaVA format.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        kinds: what is asked, keys of `PAIR_KINDS`; one that stands there twice is asked twice as often.
        allowed_only: leave out images of the disallowed category.
    """
    for number in range(count):
        rng = random.Random(f"pair/{seed}/{number}")
        wanted = 1 if rng.random() < 0.8 else rng.randint(2, 4)
        turns: dict[str, Question] = {}
        while not turns:
            images = rng.sample(range(num_images), 2)
            scenes = (scene_of(images[0]), scene_of(images[1]))
            if allowed_only and any(map(is_disallowed, scenes)):
                continue
            for _ in range(2 * wanted):
                question = ask_pair(scenes, rng.choice(kinds), rng)
                if question is not None and len(turns) < wanted:
                    turns.setdefault(question.text, question)
        yield llava_row(f"pair-{number}", images, list(turns.values()), rng)


def preference_rows(count: int, num_images: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yields questions with a faithful and an unfaithful answer, rated as in VLFeedback.

    Most ask whether something is there, and most of these about what is not: that is where answers hallucinate. The
    faithful answer is rated high; the one that says what is not there is not only unfaithful but as helpful as the
    other, so that the mean decides.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
    """
    for number in range(count):
        rng = random.Random(f"preference/{seed}/{number}")
        image = rng.randrange(num_images)
        question = None
        while question is None:
            question = ask(scene_of(image), "presence" if rng.random() < 0.8 else rng.choice(SHORT_KINDS), rng)
            if question is not None and question.answer == YES and rng.random() > _PREFERRED_YES:
                question = None
        wrong = unfaithful_answer(question, rng)
        answers = [(question.answer, 5, 5), (wrong, 4, 1)]
        rng.shuffle(answers)
        yield {
            "id": f"preference-{number}",
            "prompt": question.text,
            "image": file_of(image),
            "completions": [_rated(answer, *ratings) for answer, *ratings in answers],
        }


def unfaithful_answer(question: Question, rng: random.Random) -> str:
    """Returns a wrong answer of the right kind."""
    if question.answer in (YES, NO):
        return NO if question.answer == YES else YES
    while True:
        scene = make_scene(rng.getrandbits(31))
        other = ask(scene, question.kind, rng)
        if other is not None and other.answer not in (question.answer, YES, NO):
            return other.answer


def _rated(answer: str, helpfulness: int, faithfulness: int) -> dict[str, Any]:
    ratings = {"Helpfulness": helpfulness, "Visual Faithfulness": faithfulness, "Ethical Considerations": 5}
    return {
        "model": "drawn",
        "response": answer,
        "annotations": {name: {"Rating": str(value), "Rationale": ""} for name, value in ratings.items()},
    }


def guard_rows(count: int, num_images: int, seed: int) -> list[dict[str, Any]]:
    """Returns requests in VLGuard's format: disallowed images, and allowed ones with both kinds of requests.

    Args:
        count: images.
        num_images: images there are to choose from.
        seed: seed of the rows.
    """
    rng = random.Random(f"guard/{seed}")
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        image = rng.randrange(num_images)
        scene = scene_of(image)
        # Half of the images are disallowed ones, though few of all are.
        if is_disallowed(scene) != (len(rows) % 2 == 0):
            continue
        turns = _guarded_turns(scene, rng)
        if turns:
            safety = {"safe": not is_disallowed(scene)}
            rows.append({"id": f"guard-{len(rows)}", "image": file_of(image), **safety, "instr-resp": turns})
    return rows


def _guarded_turns(scene: Scene, rng: random.Random) -> list[dict[str, str]]:
    if is_disallowed(scene):
        return [{"instruction": ask_several(scene, 1, rng, SHORT_KINDS)[0].text, "response": REFUSAL}]
    harmful, harmless = ask_request(scene, rng, DISALLOWED_VERBS), ask_request(scene, rng, HARMLESS_VERBS)
    if harmful is None or harmless is None:
        return []
    return [
        {"safe_instruction": harmless.text, "response": harmless.answer},
        {"unsafe_instruction": harmful.text, "response": REFUSAL},
    ]


def is_disallowed(scene: Scene) -> bool:
    """Tells whether an image itself is of the disallowed category."""
    return scene.word is not None and scene.word.text in DISALLOWED_WORDS


def llava_row(name: str, images: list[int], turns: Turns, rng: random.Random, before: str = "") -> dict[str, Any]:
    """Writes a chat as LLaVA's data has it.

    Args:
        name: the row's id.
        images: numbers of its images.
        turns: questions with their answers.
        rng: decides whether there is a system turn.
        before: text before the first question.
    """
    chat = [{"from": "system", "value": RELEASED_SYSTEM}] if rng.random() < _SYSTEM_SHARE else []
    for number, turn in enumerate(turns):
        opening = "<image>\n" * len(images) + before if number == 0 else ""
        chat += [{"from": "human", "value": opening + turn.text}, {"from": "gpt", "value": turn.answer}]
    row: dict[str, Any] = {"id": name, "conversations": chat}
    if images:
        row["image"] = file_of(images[0]) if len(images) == 1 else [file_of(number) for number in images]
    return row


WRITERS: dict[str, Callable[[int, int, int], Iterable[dict[str, Any]]]] = {
    "facts": partial(caption_rows, label="fact", describe=facts),
    "captions": partial(caption_rows, label="caption", describe=short_caption),
    "finding": partial(caption_rows, label="finding", describe=partial(drills, weights=_FINDING)),
    "comparing": partial(caption_rows, label="comparing", describe=partial(drills, weights=_COMPARING)),
    "reviewing": partial(caption_rows, label="reviewing", describe=partial(drills, weights=_REVIEWING)),
    "documents": document_rows,
    "examples": partial(document_rows, as_examples=True),
    "chats": chat_rows,
    "pairs": pair_rows,
    "harder-pairs": partial(pair_rows, kinds=_HARDER),
    "preferences": preference_rows,
    "guard": guard_rows,
    "allowed": partial(chat_rows, allowed_only=True),
    "allowed-pairs": partial(pair_rows, allowed_only=True),
}
