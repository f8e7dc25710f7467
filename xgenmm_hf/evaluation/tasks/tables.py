"""Generic rows: a question, one or more images, an answer, with options or without.

JSON, JSON Lines or parquet as lmms-eval's data sets have them, and VLMEvalKit's TSV (images in base64, options under
A, B, C, ...). Options are written under the question, as VLMEvalKit does it.
"""

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.prompting import SHORT_ANSWER
from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks.collecting import Collector, decode_base64
from xgenmm_hf.evaluation.tasks.records import (
    BadRow,
    Record,
    first_of,
    list_literal,
    plain_text,
    read_records,
    text_of,
    texts_of,
)
from xgenmm_hf.evaluation.tasks.vqa import ID_FIELDS


QUESTION_FIELDS = ("question", "text", "instruction", "prompt", "query")
ANSWER_FIELDS = ("answers", "answer", "label", "correct_choice", "gt_answer")
CATEGORY_FIELDS = ("category", "sub_task", "task", "question_type", "l2-category")
IMAGES_FIELDS = ("images", "image_list", "image_paths", "image", "image_path", "image_file")
OPTIONS_FIELDS = ("options", "choices")
CHOOSE = "Answer with the option's letter from the given choices directly."

_MARKER = re.compile(r"[ \t]*<image>[ \t]*\n?")
_NUMBERED_IMAGE = re.compile(r"image_?\d+")
_NUMBERED_OPTION = re.compile(r"option_?\d+")
_LETTERED = re.compile(r"\(?([A-Z])[.):]\)?\s+(\S.*)", re.DOTALL)
# VLMEvalKit writes the index of the row with the same image where an image was written before.
_LONGEST_INDEX = 64


def read_exact(files: Sequence[Path], collector: Collector) -> None:
    """Reads rows of a question, images (or none) and an answer.

    Args:
        files: The files.
        collector: Takes samples and problems.
    """
    _read(files, collector, fewest_images=0)


def read_multi_image(files: Sequence[Path], collector: Collector) -> None:
    """Reads rows of a question about images; each needs at least one.

    Args:
        files: The files.
        collector: Takes samples and problems.
    """
    _read(files, collector, fewest_images=1, short_answers=True)


def render_choices(question: str, choices: Mapping[str, str]) -> str:
    """Writes options under a question and asks for a letter."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in choices.items()), CHOOSE])


def _read(files: Sequence[Path], collector: Collector, fewest_images: int, short_answers: bool = False) -> None:
    def make(row: Mapping[str, Any]) -> Iterator[Sample]:
        sample = _sample(row, collector)
        if len(sample.images) < fewest_images:
            raise BadRow("the row names no image")
        yield replace(sample, text=sample.text + SHORT_ANSWER) if short_answers and not sample.options else sample

    for path in files:
        records: Iterable[Record] = read_records(path)
        collector.collect(_with_images(records) if path.suffix.lower() == ".tsv" else records, make)


def _sample(row: Mapping[str, Any], collector: Collector) -> Sample:
    question = _MARKER.sub(" ", text_of(row, *QUESTION_FIELDS)).strip()
    hint = text_of(row, "hint", optional=True)
    question = f"Hint: {hint}\nQuestion: {question}" if hint else question
    choices = _choices(row)
    # Only tables have no lists: "[1, 2]" under "answer" is one answer.
    answers = texts_of({**row, "answers": list_literal(row.get("answers"))}, *ANSWER_FIELDS)
    return Sample(
        text_of(row, *ID_FIELDS),
        render_choices(question, choices) if choices else question,
        tuple(collector.image(value) for value in _images(row)),
        (_right_letter(answers, choices),) if choices else answers,
        text_of(row, *CATEGORY_FIELDS, optional=True),
        {"choices": choices} if choices else {},
    )


def _choices(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns letter -> option from a list, an object, or columns."""
    value = list_literal(first_of(row, OPTIONS_FIELDS))
    if isinstance(value, Mapping):
        value = _in_order(value)
    if value is None:
        columns = sorted((name for name in row if _NUMBERED_OPTION.fullmatch(name)), key=_number)
        lettered = [letter for letter in string.ascii_uppercase if row.get(letter) is not None]
        if lettered != list(string.ascii_uppercase[: len(lettered)]):
            raise BadRow(f"there are options {', '.join(lettered)}, and some between them are missing")
        value = [row[name] for name in columns if row[name] is not None] or [row[letter] for letter in lettered]
    if not isinstance(value, list):
        raise BadRow(f"{OPTIONS_FIELDS[0]} is a {type(value).__name__}; it must be a list of texts")
    texts = [plain_text(option) for option in value]
    if len(texts) > len(string.ascii_uppercase) or any(not text for text in texts):
        raise BadRow("an option is empty or no text, or there are more than 26")
    options = dict(zip(string.ascii_uppercase, [str(text) for text in texts], strict=False))
    parts = {letter: _LETTERED.fullmatch(text) for letter, text in options.items()}
    if all(part is not None and part[1] == letter for letter, part in parts.items()):
        return {letter: part[2] for letter, part in parts.items() if part is not None}
    return options


def _in_order(options: Mapping[str, Any]) -> list[Any]:
    """Returns the options of an object by their letters; parquet files hold None for a letter that others have."""
    named = {name: text for name, text in options.items() if text is not None}
    letters = {str(name).strip().upper(): text for name, text in named.items()}
    wanted = string.ascii_uppercase[: len(named)]
    if sorted(letters) != list(wanted):
        raise BadRow(f"the options are named {', '.join(map(str, named))}; they must be A, B, C, ...")
    return [letters[letter] for letter in wanted]


def _right_letter(answers: Sequence[str], choices: Mapping[str, str]) -> str:
    """Returns the letter of the right option from a letter, an option's text, or its number from 0."""
    if len(answers) != 1:
        raise BadRow(f"there are {len(answers)} right answers to a question with options; there must be one")
    answer = answers[0]
    letter = answer.strip("(). ").upper()
    if len(letter) == 1 and letter in choices:
        return letter
    same = [letter for letter, text in choices.items() if text == answer]
    if len(same) == 1:
        return same[0]
    if answer.isdigit() and int(answer) < len(choices):
        return list(choices)[int(answer)]
    raise BadRow(f"the answer {answer!r:.60} is none of the options {', '.join(choices)}")


def _images(row: Mapping[str, Any]) -> list[Any]:
    """Returns what a row says about its images, in order."""
    value = list_literal(first_of(row, IMAGES_FIELDS))
    if value is None:
        columns = sorted((name for name in row if _NUMBERED_IMAGE.fullmatch(name)), key=_number)
        value = [row[name] for name in columns if row[name] is not None]
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _with_images(records: Iterable[Record]) -> Iterator[Record]:
    """Yields a TSV's rows with decoded images; a short entry is the index of the row that has the image."""
    rows = list(records)
    written = {
        record.row["index"]: record.row["image"]
        for record in rows
        if isinstance(record.row, Mapping) and record.row.get("index") and record.row.get("image")
    }
    for record in rows:
        value = record.row.get("image") if isinstance(record.row, Mapping) else None
        if value is None:
            yield record
            continue
        if len(value) <= _LONGEST_INDEX:
            value = written.get(value, value)
        try:
            texts = list_literal(value)
            images = [decode_base64(text) for text in (texts if isinstance(texts, list) else [texts])]
            yield Record(record.source, record.where, {**record.row, "images": images})
        except BadRow as error:
            yield Record(record.source, record.where, error)
