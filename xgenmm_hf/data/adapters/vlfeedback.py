"""VLFeedback: instructions with several models' answers, each rated in three aspects.

Source: https://huggingface.co/datasets/MMInstruction/VLFeedback; which answers become a pair follows the xGen-MM
report: preferred is the highest mean rating, dispreferred the lowest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from xgenmm_hf.data.adapters.base import (
    Adapter,
    Context,
    Record,
    SkippedRecord,
    as_records,
    first_field,
    image_refs,
    text_of,
)
from xgenmm_hf.data.rows import Row, image_part, message, preference_row


ASPECTS = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
HIGHEST = 5.0


def convert(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns the answers to one instruction into a preference row.

    Of several answers with the highest or the lowest mean the first is taken.

    Args:
        record: The record; its image in `image` or `img_path`, else `merged_images/ID.jpg`.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row.

    Raises:
        RejectedRecord: If the prompt or the completions are malformed.
        SkippedRecord: "incomplete" if fewer than two answers have all three ratings, "tie" if the highest mean is
            the lowest, "same answer" if both answers are one text.
    """
    prompt = text_of(record, "prompt")
    # The published JSONL names no image: it is the archive's file of the record's id.
    name = first_field(record, ("image", "images", "img_path"))
    images = image_refs(record[name] if name else f"merged_images/{text_of(record, 'id')}.jpg", context)
    rated = []
    for completion in as_records(record.get("completions"), "completions"):
        score = mean_rating(completion.get("annotations"))
        response = completion.get("response")
        if score is not None and isinstance(response, str) and response.strip():
            rated.append((score, response))
    if len(rated) < 2:
        raise SkippedRecord("incomplete", f"{len(rated)} answer(s) with all three ratings; a pair needs two")
    best, worst = max(rated, key=lambda pair: pair[0]), min(rated, key=lambda pair: pair[0])
    if best[0] == worst[0]:
        raise SkippedRecord("tie", f"all {len(rated)} answers have the mean rating {best[0]:g}")
    if best[1].strip() == worst[1].strip():
        raise SkippedRecord("same answer", "the preferred and the dispreferred answer are the same text")
    question = message("user", *[image_part()] * len(images), prompt)
    yield preference_row(id, context.source, [question], best[1], worst[1], images)


def mean_rating(annotations: Any) -> float | None:
    """Returns the mean of an answer's three ratings.

    Args:
        annotations: Aspect -> `{"Rating": "4", ...}`; ratings are strings or numbers, "N/A" where there is none.

    Returns:
        The mean, or None if a rating is missing or outside 0-5.
    """
    ratings = []
    for aspect in ASPECTS:
        value = annotations.get(aspect) if isinstance(annotations, Mapping) else None
        try:
            rating = float(value.get("Rating") if isinstance(value, Mapping) else value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        if not 0 <= rating <= HIGHEST:
            return None
        ratings.append(rating)
    return sum(ratings) / len(ratings)


ADAPTER = Adapter(
    "vlfeedback", convert, lambda record: "completions" in record and "prompt" in record, kind="preference"
)
