"""Your own rows: a question, any number of images (also none), an answer, and optional choices.

`{"id", "question", "image" | "images", "answer" | "answers", "options", "category"}`; rows without an id are numbered,
and `<image>` in a question is the place of an image. Options are written under the question with letters. Other fields
of published benchmarks are refused: their harnesses know how to ask and score them.
"""

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xgenmm_hf.evaluation.harness.benchmarks import HARNESS_HINT
from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks.rows import BadRow, Collector, first_of, plain_text, text_of, texts_of
from xgenmm_hf.modeling.chat_xgenmm import IMAGE_TOKEN


# Numbered images and options, options by letter, hints, and other names of answers and images.
FOREIGN = re.compile(
    r"image_?\d+|option_?\d+|[A-F]|hint|choices|image_list|image_file|label|correct_choice|gt_answer|l2-category"
    r"|question_type|sub_task|instruction|query"
)


def own_samples(row: Mapping[str, Any], collector: Collector) -> Iterator[Sample]:
    """Makes the sample of one of your own rows."""
    if foreign := sorted(name for name in row if FOREIGN.fullmatch(name)):
        raise ValueError(
            f"A row has the field {foreign[0]!r}, which own rows do not have (id, question, image or images, "
            f"answer or answers, options, category): rename it, or, if this is a benchmark, {HARNESS_HINT}"
        )
    question = text_of(row, "question")
    value = first_of(row, ("images", "image"))
    images = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    marks = question.count(IMAGE_TOKEN)
    if marks and marks != len(images):
        raise BadRow(f"the question marks {marks} images with {IMAGE_TOKEN}, but the row has {len(images)}")
    choices = _choices(row.get("options"))
    answers = texts_of(row, "answers", "answer")
    if not choices and any(re.fullmatch(r"\(?[A-Z]\)?", answer) for answer in answers):
        raise BadRow(f"the answer {answers[0]!r} is a letter, but the row has no options")
    yield Sample(
        text_of(row, "id", optional=True) or str(1 + len(collector.samples) + len(collector.problems)),
        "\n".join([question, *(f"{letter}. {text}" for letter, text in choices.items())]),
        tuple(collector.image(one) for one in images),
        (_right_letter(answers, choices),) if choices else answers,
        text_of(row, "category", optional=True),
        {"choices": choices} if choices else {},
        marked=bool(marks),
    )


def _choices(value: Any) -> dict[str, str]:
    """Returns letter -> option of a list of texts."""
    if value is None:
        return {}
    if not isinstance(value, list) or not value:
        raise BadRow(f"options is {value!r:.60}; it must be a list of texts")
    texts = [plain_text(option) or "" for option in value]
    if len(texts) > len(string.ascii_uppercase) or not all(texts):
        raise BadRow("an option is empty or no text, or there are more than 26")
    return dict(zip(string.ascii_uppercase, texts, strict=False))


def _right_letter(answers: Sequence[str], choices: Mapping[str, str]) -> str:
    """Returns the letter of the right option from the letter or the option's text."""
    if len(answers) != 1:
        raise BadRow(f"there are {len(answers)} right answers to a question with options; there must be one")
    same = [letter for letter, text in choices.items() if text == answers[0]]
    letter = answers[0].strip("(). ")
    if len(same) == 1 or letter in choices:
        return same[0] if len(same) == 1 else letter
    raise BadRow(f"the answer {answers[0]!r:.60} is none of the options {', '.join(choices)}")
