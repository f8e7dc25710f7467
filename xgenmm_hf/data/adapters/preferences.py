"""Preference sets: VLFeedback (several rated answers), RLAIF-V (a chosen and a rejected one), a model's wrong answers.

Wrong answers come from a result file of `xgenmm eval`: the reference is chosen, the wrong answer rejected.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from xgenmm_hf.data.adapters.base import Adapter, Context, image_refs, images_of
from xgenmm_hf.data.fields import Record, SkippedRecord, first_field, list_of, mappings_of, text_of
from xgenmm_hf.data.image_refs import image_ref
from xgenmm_hf.data.rows import Row, image_part, make_row, message


ASPECTS = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
HIGHEST = 5.0
IMAGES = ("image", "images", "img_path")
ANSWER_FIELDS = ("question", "images", "references", "answer", "score")
# An answer with at least this score counts as right, as in the reports of `xgenmm eval`.
RIGHT = 0.5


def _vlfeedback(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns the rated answers to one instruction into a preference row of the highest and the lowest mean rating.

    Source: the xGen-MM report. Among answers with the same mean, the first is taken.
    """
    prompt = text_of(record, "prompt")
    # The published JSONL names no image: the archive's file has the record's id as its name.
    if first_field(record, IMAGES):
        images = images_of(record, context, IMAGES)
    else:
        images = image_refs(f"merged_images/{text_of(record, 'id')}.jpg", context)
    rated = []
    for completion in mappings_of(record.get("completions"), "completions"):
        score = mean_rating(completion.get("annotations"))
        response = completion.get("response")
        if score is not None and isinstance(response, str) and response.strip():
            rated.append((score, response))
    if len(rated) < 2:
        raise SkippedRecord("incomplete", f"{len(rated)} answer(s) with all three ratings; a pair needs two")
    best, worst = max(rated, key=lambda pair: pair[0]), min(rated, key=lambda pair: pair[0])
    if best[0] == worst[0]:
        raise SkippedRecord("tie", f"all {len(rated)} answers have the mean rating {best[0]:g}")
    yield _pair(id, context, prompt, best[1], worst[1], images)


def _rlaif_v(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a question with a chosen and a rejected answer into a preference row."""
    question, chosen, rejected = (text_of(record, name) for name in ("question", "chosen", "rejected"))
    yield _pair(id, context, question, chosen, rejected, images_of(record, context))


def _answers(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a wrong answer of `xgenmm eval` (`results.json`) into a preference row."""
    score = record.get("score")
    score = next(iter(score.values()), None) if isinstance(score, Mapping) else score
    if not isinstance(score, (int, float)):
        raise SkippedRecord("no score", "the answer has no score")
    if score >= RIGHT:
        raise SkippedRecord("right answer", f"the answer has the score {score:g}")
    names = [str(name) for name in list_of(record, "images")]
    missing = next((name for name in names if not os.path.isfile(name)), None)
    if missing is not None:
        raise SkippedRecord("image not on disk", f"there is no file {missing:.200}")
    reference = text_of({"references": next(iter(list_of(record, "references")), None)}, "references")
    question, answer = text_of(record, "question"), text_of(record, "answer")
    yield _pair(id, context, question, reference, answer, [image_ref(name) for name in names])


def mean_rating(annotations: Any) -> float | None:
    """Returns the mean of an answer's three ratings, each from 0 to 5."""
    try:
        values = [annotations[aspect] for aspect in ASPECTS]
        ratings = [float(value["Rating"] if isinstance(value, Mapping) else value) for value in values]
    except (KeyError, TypeError, ValueError):
        return None
    return sum(ratings) / len(ratings) if all(0 <= rating <= HIGHEST for rating in ratings) else None


def _pair(id: str, context: Context, question: str, chosen: str, rejected: str, images: list) -> Row:
    if chosen.strip() == rejected.strip():
        raise SkippedRecord("same answer", "the preferred and the dispreferred answer are the same text")
    answers = {"chosen": [message("assistant", chosen)], "rejected": [message("assistant", rejected)]}
    prompt = message("user", *[image_part()] * len(images), question)
    return make_row(id, context.source, images, prompt=[prompt], **answers)


ADAPTERS = (
    Adapter("vlfeedback", _vlfeedback, lambda record: {"completions", "prompt"} <= record.keys(), "preference"),
    Adapter("answers", _answers, lambda record: {*ANSWER_FIELDS} <= record.keys(), "preference"),
    Adapter("rlaif-v", _rlaif_v, lambda record: {"question", "chosen", "rejected"} <= record.keys(), "preference"),
)
