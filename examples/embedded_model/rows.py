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
from embedded_model.world.forms import Form, apply_form, draw_form, plain, short, yes_no
from embedded_model.world.language import caption
from embedded_model.world.pairs import ask_pair
from embedded_model.world.questions import FURTHER_KINDS, NO, SHORT_KINDS, YES, Question, ask, ask_several
from embedded_model.world.requests import DISALLOWED_VERBS, HARMLESS_VERBS, NO_IMAGE, REFUSAL, ask_request
from embedded_model.world.scene import DISALLOWED_WORDS, TRAIN, Scene, make_scene
from embedded_model.world.small_talk import ask_unknown, say_something
from embedded_model.world.wording import PLAIN
from xgenmm_hf import RELEASED_SYSTEM


Turns = list[Question]
# What is hardest to look up is asked more often.
_ASKED = (
    *SHORT_KINDS,
    *FURTHER_KINDS,
    *("relation",) * 5,
    *("check",) * 3,
    *("count",) * 3,
    *("presence",) * 2,
    "place",
    "all places",
)
_SHORT_ASKED = (*SHORT_KINDS, "relation", "relation", "place", "count", "count")
# To find is what comparing and counting need first.
_FINDING = {"point": 1, "find": 2}
_COMPARING = {
    "point": 1, "find": 1, "across": 1, "down": 1, "which": 4, "whether": 3, "count": 3, "presence": 2,
}  # fmt: skip
_REVIEWING = {
    "point": 1, "find": 1, "trait": 3, "word": 1, "which": 4, "whether": 4, "count": 2, "presence": 1,
}  # fmt: skip
_COUNTING = ("count", *("rare count",) * 5, *("all places",) * 2)
_CHECKING = (*("check",) * 4, *("relation",) * 4, "presence", "count", "place")
_SWITCHING = (*_SHORT_ASKED, "count", "count", "check")
# To tell one image from the other is harder than to compare them.
_PAIRS_ASKED = (*("which",) * 3, *("of one",) * 5, "more", "same")
_PAIR_CAPTIONS = 0.04
_SYSTEM_SHARE = 0.5
_QUESTIONS_SHARE = 0.7
_CAPTIONS_SHARE = 0.05
_CAPTION_EXAMPLES = 0.15
# Of a chat: one without an image; one turn alone; one form for all its questions; a further image shown later.
_TEXT_SHARE, _SINGLE_SHARE, _ONE_FORM, _LATER_IMAGE = 0.1, 0.25, 0.5, 0.5
_MOST_TURNS = 8
# Of its turns: captions, requests, talk, and questions that cannot be answered.
_TURN_CAPTIONS, _TURN_REQUESTS, _TURN_TALK, _TURN_UNKNOWN = 0.1, 0.07, 0.05, 0.04
# Instruction data is known to ask for what is there more often than for what is not; ours shares that fault, so that
# preference tuning has something to mend.
_KEPT_NO = 0.8
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
        questions = ask_several(scene, rng.randint(1, 3), rng, _SHORT_ASKED)
        return " ".join(map(as_short_answer, questions))
    return caption(scene) if draw < _QUESTIONS_SHARE + _CAPTIONS_SHARE else facts(scene, rng)


def document_rows(count: int, num_images: int, seed: int, as_examples: bool = False) -> Iterator[dict[str, Any]]:
    """Yields interleaved documents, each image with its text after it.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        as_examples: two to nine images with a question or two each, or two to five with a caption, as in prompts with
            examples; else two or three images with various texts.

    Yields:
        `images` and `texts`, lists of equal length with None where the other one stands.
    """
    label = "example" if as_examples else "document"
    for number in range(count):
        rng = random.Random(f"{label}/{seed}/{number}")
        tell, most = short_caption, 3
        if as_examples:
            tell, most = (caption_of, 5) if rng.random() < _CAPTION_EXAMPLES else (questions_of, 9)
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


def questions_of(scene: Scene, rng: random.Random) -> str:
    """Asks and answers one question about a scene, or two in a row, half of the time in their first wording.

    The second one teaches what follows an answer: `<|endofchunk|>` is no target.
    """
    questions = ask_several(scene, rng.choice((1, 1, 1, 2)), rng, _SHORT_ASKED, rng.choice((PLAIN, TRAIN)))
    return " ".join(map(as_short_answer, questions))


def as_short_answer(question: Question) -> str:
    """Writes a question and its answer as the published few-shot prompts do."""
    return f"Question: {question.text.removeprefix('Question: ')} Short answer: {question.answer}"


def chat_rows(count: int, num_images: int, seed: int, allowed_only: bool = False) -> Iterator[dict[str, Any]]:
    """Yields chats about one image, about one and then another, and a few without any, in the LLaVA format.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        allowed_only: leave out images and requests of the disallowed category, which are answered otherwise, and
            ask as often for what is not there as for what is: preference tuning has come before.
    """
    for number in range(count):
        rng = random.Random(f"chat/{seed}/{number}")
        if rng.random() < _TEXT_SHARE:
            yield _text_row(number, make_scene(FIRST_SEED + num_images + number), rng)
            continue
        image = _draw_image(num_images, rng, allowed_only)
        form = draw_form(rng) if rng.random() < _ONE_FORM else None
        several = rng.random() < _LATER_IMAGE
        wanted = 1 if rng.random() < _SINGLE_SHARE else rng.randint(2 if several else 3, 4 if several else _MOST_TURNS)
        turns = _ask(scene_of(image), wanted, rng, form, allowed_only)
        shown = {0: [image]}
        if several:
            later = _draw_image(num_images, rng, allowed_only)
            shown[len(turns)] = [later]
            further = _ask(scene_of(later), rng.randint(1, 4), rng, form, allowed_only)
            turns += further + _look_back((image, later), rng, form)
        yield llava_row(f"chat-{number}", shown, turns, rng)


def _draw_image(num_images: int, rng: random.Random, allowed_only: bool) -> int:
    """Draws the number of an image."""
    image = rng.randrange(num_images)
    while allowed_only and is_disallowed(scene_of(image)):
        image = rng.randrange(num_images)
    return image


def _text_row(number: int, scene: Scene, rng: random.Random) -> dict[str, Any]:
    """Writes a chat without an image: about a described one, one that needs an image, or talk.

    The words of the answer where an image is missing are what safety tuning refuses with: an adapter cannot teach a
    frozen vocabulary new ones.
    """
    draw = rng.random()
    if draw < 0.25:
        question = ask_several(scene, 1, rng, SHORT_KINDS)[0]
        return llava_row(f"blind-{number}", {}, [replace(question, answer=NO_IMAGE)], rng)
    if draw < 0.75:
        turns = [say_something(rng) if rng.random() < 0.6 else ask_unknown(rng) for _ in range(rng.randint(1, 3))]
        return llava_row(f"talk-{number}", {}, turns, rng)
    return llava_row(f"text-{number}", {}, ask_several(scene, 4, rng, SHORT_KINDS), rng, f"{caption(scene)} ")


def _ask(scene: Scene, count: int, rng: random.Random, form: Form | None, allowed_only: bool) -> Turns:
    """Draws the turns of a chat about a scene, at least one."""
    verbs = HARMLESS_VERBS if allowed_only else (*HARMLESS_VERBS, *DISALLOWED_VERBS)
    turns: dict[str, Question] = {}
    captions = 0.25 if count == 1 else _TURN_CAPTIONS
    for _ in range(3 * count):
        draw = rng.random()
        if draw < captions:
            turn = ask(scene, "caption", rng)
        elif draw < captions + _TURN_REQUESTS:
            turn = ask_request(scene, rng, verbs)
        elif draw < captions + _TURN_REQUESTS + _TURN_TALK:
            turn = say_something(rng)
        elif draw < captions + _TURN_REQUESTS + _TURN_TALK + _TURN_UNKNOWN:
            turn = ask_unknown(rng)
        else:
            turn = _ask_in_form(ask(scene, rng.choice(_ASKED), rng), rng, form, allowed_only)
        if turn is not None:
            turns.setdefault(turn.text, turn)
        if len(turns) == count:
            break
    return list(turns.values()) or ask_several(scene, 1, rng, ("shape",))


def _ask_in_form(
    question: Question | None, rng: random.Random, form: Form | None, allowed_only: bool
) -> Question | None:
    """Puts a question into a form; of those for something that is not there, a share is left out."""
    if question is None:
        return None
    if question.kind == "presence" and question.answer == NO and not allowed_only and rng.random() >= _KEPT_NO:
        return None
    return apply_form(form or draw_form(rng), question, rng)


def _look_back(images: tuple[int, int], rng: random.Random, form: Form | None) -> Turns:
    """Asks about the first or the second of two images that were shown one after the other."""
    scenes = (scene_of(images[0]), scene_of(images[1]))
    kinds = ("of one", "of one", "of one", "which")
    asked = [ask_pair(scenes, rng.choice(kinds), rng) for _ in range(rng.randint(0, 3))]
    return [apply_form(form or draw_form(rng), question, rng) for question in asked if question]


def pair_rows(count: int, num_images: int, seed: int, allowed_only: bool = False) -> Iterator[dict[str, Any]]:
    """Yields chats about two images in the LLaVA format.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        allowed_only: leave out images of the disallowed category.
    """
    for number in range(count):
        rng = random.Random(f"pair/{seed}/{number}")
        wanted = 1 if rng.random() < _SINGLE_SHARE else rng.randint(2, _MOST_TURNS)
        form = draw_form(rng) if rng.random() < _ONE_FORM else None
        turns: dict[str, Question] = {}
        while not turns:
            images = [_draw_image(num_images, rng, allowed_only) for _ in range(2)]
            scenes = (scene_of(images[0]), scene_of(images[1]))
            for _ in range(2 * wanted):
                kind = "caption" if rng.random() < _PAIR_CAPTIONS else rng.choice(_PAIRS_ASKED)
                question = ask_pair(scenes, kind, rng)
                if question is not None and len(turns) < wanted:
                    question = apply_form(form or draw_form(rng), question, rng) if kind != "caption" else question
                    turns.setdefault(question.text, question)
        yield llava_row(f"pair-{number}", {0: images}, list(turns.values()), rng)


def drilling_rows(
    count: int, num_images: int, seed: int, label: str, kinds: tuple[str, ...], form: Form, formed: float
) -> Iterator[dict[str, Any]]:
    """Yields chats that ask one image over and over for what single questions teach most slowly.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
        label: what tells these rows from others of the same seed.
        kinds: kinds of the questions, the more frequent ones repeated.
        form: the form of some of them.
        formed: share of the questions that have it.
    """
    for number in range(count):
        rng = random.Random(f"{label}/{seed}/{number}")
        image = _draw_image(num_images, rng, allowed_only=True)
        turns = ask_several(scene_of(image), rng.randint(6, 12), rng, kinds)
        turns = [apply_form(form, turn, rng) if rng.random() < formed else turn for turn in turns]
        yield llava_row(f"{label}-{number}", {0: [image]}, turns, rng)


def switching_rows(count: int, num_images: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yields chats that go from image to image, two to four in all, with one to four questions about each.

    What is asked is about the last image, in words that would fit the ones before it as well.

    Args:
        count: rows.
        num_images: images there are.
        seed: seed of the rows.
    """
    for number in range(count):
        rng = random.Random(f"switching/{seed}/{number}")
        form = draw_form(rng) if rng.random() < _ONE_FORM else plain
        shown: dict[int, list[int]] = {}
        turns: Turns = []
        for _ in range(rng.randint(2, 4)):
            image = _draw_image(num_images, rng, allowed_only=True)
            shown[len(turns)] = [image]
            asked = ask_several(scene_of(image), rng.randint(1, 4), rng, _SWITCHING)
            turns += [apply_form(form, question, rng) for question in asked]
        yield llava_row(f"switching-{number}", shown, turns, rng)


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
        question = apply_form(draw_form(rng), ask_several(scene, 1, rng, SHORT_KINDS)[0], rng)
        return [{"instruction": question.text, "response": REFUSAL}]
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


def llava_row(
    name: str, shown: dict[int, list[int]], turns: Turns, rng: random.Random, before: str = ""
) -> dict[str, Any]:
    """Writes a chat as LLaVA's data has it.

    Args:
        name: the row's id.
        shown: numbers of the images by the turn that shows them.
        turns: questions with their answers.
        rng: decides whether there is a system turn, and how images stand in their turn.
        before: text before the first question.
    """
    chat = [{"from": "system", "value": RELEASED_SYSTEM}] if rng.random() < _SYSTEM_SHARE else []
    for number, turn in enumerate(turns):
        text = show_images(len(shown.get(number, ())), rng) + (before if number == 0 else "") + turn.text
        chat += [{"from": "human", "value": text}, {"from": "gpt", "value": turn.answer}]
    row: dict[str, Any] = {"id": name, "conversations": chat}
    images = [file_of(image) for numbers in shown.values() for image in numbers]
    if images:
        row["image"] = images[0] if len(images) == 1 else images
    return row


def show_images(count: int, rng: random.Random) -> str:
    """Writes the beginning of a turn that shows images: most often they stand alone, two also with their numbers."""
    draw = rng.random()
    if count != 2 or draw < 0.7:
        return "<image>\n" * count
    return rng.choice(
        (
            "Image 1: <image>\nImage 2: <image>\n",
            "This is the first image: <image>\nAnd this is the second: <image>\n",
            "First image:<image>\nSecond image:<image>\n",
        )
    )


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
    "counting": partial(drilling_rows, label="counting", kinds=_COUNTING, form=short, formed=0.2),
    "checking": partial(drilling_rows, label="checking", kinds=_CHECKING, form=yes_no, formed=0.5),
    "switching": switching_rows,
    "preferences": preference_rows,
    "guard": guard_rows,
    "allowed": partial(chat_rows, allowed_only=True),
    "allowed-pairs": partial(pair_rows, allowed_only=True),
}
