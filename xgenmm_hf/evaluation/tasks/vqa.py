"""Questions with the answers of several annotators: VQAv2, OK-VQA, VizWiz and TextVQA.

VQAv2 and OK-VQA come as two files, questions and annotations, TextVQA as one with its rows under "data". lmms-eval's
parquet files hold the same fields in one row with the image.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks.collector import Collector
from xgenmm_hf.evaluation.tasks.reading import (
    BadRow,
    Row,
    first_of,
    numbered,
    read_document,
    read_rows,
    text_of,
    texts_of,
)


ANSWER_TYPES = ("yes/no", "number", "other", "unanswerable")
ID_FIELDS = ("question_id", "questionId", "id", "index", "idx")
QUESTION_FIELDS = ("question", "text")
IMAGE_FIELDS = ("image", "image_path", "file_name", "image_local_name")


def read_vqa(files: Sequence[Path], collector: Collector) -> None:
    """Reads VQAv2, OK-VQA or VizWiz: questions and annotations in two files, or rows that hold both."""

    def make(row: Mapping[str, Any]) -> Iterator[Sample]:
        kind = text_of(row, "answer_type", optional=True)
        if kind and kind not in ANSWER_TYPES:
            raise BadRow(f"the answer type {kind!r} is unknown; known are {', '.join(ANSWER_TYPES)}")
        image = text_of(row, "image_id", optional=True)
        paths = coco_file_names(image, text_of(row, "data_subtype", optional=True)) if image else []
        if first_of(row, ID_FIELDS) is None and isinstance(row.get("image"), str):
            row = {**row, "id": row["image"]}  # VizWiz asks once about an image and has no other name for it
        yield _sample(row, collector, paths, kind)

    collector.collect(_joined(files, collector), make)


def read_textvqa(files: Sequence[Path], collector: Collector) -> None:
    """Reads TextVQA: `{"data": [{"question_id", "question", "image_id", "answers"}]}`, or rows of these fields."""

    def make(row: Mapping[str, Any]) -> Iterator[Sample]:
        name = text_of(row, "image_id", optional=True)
        yield _sample(row, collector, [f"{name}.jpg"] if name else [])

    collector.collect(chain.from_iterable(map(read_rows, files)), make)


def coco_file_names(image_id: str, subset: str = "") -> list[str]:
    """Returns the names that an image of COCO has: with its subset in front, as in 2014, and without, as in 2017."""
    if not image_id.isdigit():
        return [image_id, f"{image_id}.jpg"]
    plain = f"{int(image_id):012d}.jpg"
    old = f"COCO_{subset}_{plain}"
    return [old, f"{subset}/{old}", plain, f"{subset}/{plain}"] if subset else [plain]


def _sample(row: Mapping[str, Any], collector: Collector, paths: Sequence[str], category: str = "") -> Sample:
    """Makes the sample of a row; a field with the image wins over the paths that its id stands for."""
    answers = texts_of(row, "answers", "answer")
    if len(answers) < 2:
        raise BadRow("there is one answer; VQA accuracy compares with those of several annotators")
    value = first_of(row, IMAGE_FIELDS)
    if value is None and not paths:
        raise BadRow("the row names no image")
    image = collector.image_among(paths) if value is None else collector.image(value)
    return Sample(text_of(row, *ID_FIELDS), text_of(row, *QUESTION_FIELDS), (image,), answers, category)


def _joined(files: Sequence[Path], collector: Collector) -> Iterable[Row]:
    """Returns rows with question and answers, joined from the two files where there are two."""
    documents = {path: read_document(path) or {} for path in files}
    used = []
    for name in ("questions", "annotations"):
        found = [path for path in files if name in documents[path]]
        used += found
        if len(found) != 1 and any(set(documents[path]) & {"questions", "annotations"} for path in files):
            raise ValueError(
                f"There are {len(found)} files with {name} among {', '.join(path.name for path in files)}; give one "
                "file with questions and one with annotations."
            )
    if not used:
        return chain.from_iterable(map(read_rows, files))
    if unused := [path.name for path in files if path not in used]:
        raise ValueError(
            f"{unused[0]} would not be used: it holds neither questions nor annotations, and the other files do; "
            "leave it out, or read it on its own."
        )
    questions, annotations = (documents[path] for path in used)
    subset = questions.get("data_subtype") or annotations.get("data_subtype") or ""
    asked = numbered(used[0], questions["questions"])
    return _join(asked, numbered(used[1], annotations["annotations"]), subset, collector)


def _join(questions: Iterable[Row], annotations: Iterable[Row], subset: str, collector: Collector) -> Iterator[Row]:
    """Yields each question with its annotation; what has no partner, and annotations seen before, are problems."""
    by_id: dict[Any, Row] = {}
    for record in annotations:
        key = _question_id(record)
        if key is None:
            collector.reject(record, "the annotation has no question_id")
        elif key in by_id:
            collector.reject(record, f"the question {key} was annotated before ({by_id[key].where}); the first counts")
        else:
            by_id[key] = record
    left = dict(by_id)
    for record in questions:
        key = _question_id(record)
        if key in by_id:
            left.pop(key, None)
            row = {"data_subtype": subset, **by_id[key].fields, **record.fields}
            yield Row(record.source, f"question {key}", row)
        else:
            reason = "the question has no question_id" if key is None else f"the question {key} has no annotation"
            yield Row(record.source, record.where, BadRow(reason))
    for key, record in left.items():
        collector.reject(record, f"the annotation is of a question {key} that is not there")


def _question_id(record: Row) -> str | int | None:
    key = record.fields.get("question_id") if isinstance(record.fields, Mapping) else None
    return key if isinstance(key, str | int) else None
