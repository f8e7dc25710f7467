"""Data sets in their published form: VQA with the answers of several annotators, captions, and VLGuard.

VQAv2 and OK-VQA come as two files, questions and annotations, TextVQA as one with its rows under "data", captions as
COCO's JSON (NoCaps has the same), Karpathy's split of it, TextCaps, or rows of image and captions. lmms-eval's parquet
files hold the same fields in one row with the image.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks.rows import (
    BadRow,
    Collector,
    TaskRow,
    first_of,
    numbered,
    plain_text,
    read_document,
    read_rows,
    text_of,
    texts_of,
)


ANSWER_TYPES = ("yes/no", "number", "other", "unanswerable")
ID_FIELDS = ("question_id", "questionId", "id", "index", "idx")
QUESTION_FIELDS = ("question", "text")
IMAGE_FIELDS = ("image", "image_path", "file_name", "image_local_name")
CAPTION_FIELDS = (
    *("captions", "reference_strs", "annotations_captions", "caption_str", "sentences", "caption"),
    *("answers", "answer"),
)
CAPTION_IMAGE_FIELDS = ("image", "file_name", "image_path", "image_name")
CAPTION_ID_FIELDS = ("image_id", "id", "question_id", "index")
# The subsets by the names of VLGuard's evaluation.
UNSAFES, SAFE_UNSAFES, SAFE_SAFES = "unsafes", "safe_unsafes", "safe_safes"
_OF_SAFE_IMAGES = {"unsafe_instruction": SAFE_UNSAFES, "safe_instruction": SAFE_SAFES}


def vqa_rows(files: Sequence[Path]) -> Iterator[TaskRow]:
    """Yields rows with question and answers, joined from the two files where there are two."""
    documents = {path: read_document(path) for path in files}
    parts = {name: [path for path in files if name in documents[path]] for name in ("questions", "annotations")}
    if not any(parts.values()):
        yield from read_rows(files)
        return
    if odd := next((name for name, found in parts.items() if len(found) != 1), None):
        listed = ", ".join(path.name for path in files)
        raise ValueError(
            f"There are {len(parts[odd])} files with {odd} among {listed}; give one with questions and one with "
            "annotations."
        )
    (asked,), (answered,) = parts.values()
    if unused := [path.name for path in files if path not in (asked, answered)]:
        raise ValueError(f"{unused[0]} would not be used with the other files: leave it out, or read it on its own.")
    subset = documents[asked].get("data_subtype") or documents[answered].get("data_subtype") or ""
    questions = numbered(asked, documents[asked]["questions"])
    yield from _join(questions, numbered(answered, documents[answered]["annotations"]), subset)


def _join(questions: Iterator[TaskRow], annotations: Iterator[TaskRow], subset: str) -> Iterator[TaskRow]:
    """Yields each question with its annotation; unmatched and repeated entries are bad rows."""
    by_id: dict[Any, TaskRow] = {}
    for record in annotations:
        key = record.key("question_id")
        if key is None:
            yield record.rejected("the annotation has no question_id")
        elif key in by_id:
            yield record.rejected(f"the question {key} was annotated before ({by_id[key].where}); the first counts")
        else:
            by_id[key] = record
    asked = set()
    for record in questions:
        key = record.key("question_id")
        asked.add(key)
        if key in by_id:
            row = {"data_subtype": subset, **by_id[key].fields, **record.fields}
            yield TaskRow(record.source, f"question {key}", row)
        else:
            reason = "the question has no question_id" if key is None else f"the question {key} has no annotation"
            yield record.rejected(reason)
    for key, record in by_id.items():
        if key not in asked:
            yield record.rejected(f"the annotation is of a question {key} that is not there")


def vqa_samples(row: Mapping[str, Any], collector: Collector) -> Iterator[Sample]:
    """Makes the sample of a row of VQAv2, OK-VQA, VizWiz or TextVQA."""
    kind = text_of(row, "answer_type", optional=True)
    if kind and kind not in ANSWER_TYPES:
        raise BadRow(f"the answer type {kind!r} is unknown; known are {', '.join(ANSWER_TYPES)}")
    answers = texts_of(row, "answers", "answer")
    if len(answers) < 2:
        raise BadRow("there is one answer; VQA accuracy compares with those of several annotators")
    value, image_id = first_of(row, IMAGE_FIELDS), text_of(row, "image_id", optional=True)
    if value is None and not image_id:
        raise BadRow("the row names no image")
    places = file_names(image_id, text_of(row, "data_subtype", optional=True)) if value is None else [value]
    # VizWiz has one question per image, and no id except the image's name
    name = text_of(row, *ID_FIELDS, *(["image"] if isinstance(row.get("image"), str) else []))
    yield Sample(name, text_of(row, *QUESTION_FIELDS), (collector.image(*places),), answers, kind)


def file_names(image_id: str, subset: str = "") -> list[str]:
    """Returns possible file names of an image from its id; COCO's begin with the subset in 2014, not in 2017."""
    names = [f"{image_id}.jpg", image_id]
    if image_id.isdigit():
        plain = f"{int(image_id):012d}.jpg"
        old = f"COCO_{subset}_{plain}"
        names = [*([old, f"{subset}/{old}", plain, f"{subset}/{plain}"] if subset else [plain]), *names]
    return names


def caption_rows(files: Sequence[Path], split: str | None = None) -> Iterator[TaskRow]:
    """Yields rows of an image and its captions; `split` is one of Karpathy's files."""
    for path in files:
        lists = read_document(path)
        images, annotations = lists.get("images"), lists.get("annotations")
        if isinstance(images, list) and annotations is None:
            yield from _karpathy(path, images, split or "test")
        elif split is not None:
            raise ValueError(f"{path} has no splits: leave out --split, and give the file of the split.")
        elif isinstance(images, list) and isinstance(annotations, list):
            yield from _coco(path, images, annotations)
        else:
            yield from _grouped(read_rows([path]))


def _coco(path: Path, images: list[Any], annotations: list[Any]) -> Iterator[TaskRow]:
    """Yields COCO's images with their captions; a caption of no image is a bad row."""
    captions: dict[Any, list[str]] = {record.key("id"): [] for record in numbered(path, images)}
    seen: set[str] = set()
    for record in numbered(path, annotations, "caption"):
        row = record.fields if isinstance(record.fields, Mapping) else {}
        caption, key, label = row.get("caption"), record.key("image_id"), plain_text(row.get("id"))
        if not isinstance(caption, str) or not caption.strip():
            yield record.rejected("the caption is missing or no text")
        elif key is None or key not in captions:
            yield record.rejected(f"the caption is of an image {row.get('image_id')!r} that is not listed")
        elif label and label in seen:
            yield record.rejected(f"the caption's id {label} was there before; the first one counts")
        else:
            captions[key].append(caption)
            seen.add(label or "")
    for record in numbered(path, images, "image"):
        if isinstance(record.fields, Mapping):
            found = {"image_id": record.fields.get("id"), "captions": captions[record.key("id")] or None}
            record = record._replace(fields={**record.fields, **found})
        yield record


def _karpathy(path: Path, images: list[Any], split: str) -> Iterator[TaskRow]:
    records = list(numbered(path, images, "image"))
    splits = {name for record in records if isinstance(name := record.key("split"), str)}
    if split not in splits:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(sorted(splits)) or 'none'}.")
    for record in records:
        image = record.fields
        if not isinstance(image, Mapping):
            yield record
        elif not isinstance(image.get("split"), str):
            yield record.rejected("split is missing or no text")
        elif image["split"] == split:
            fields = {"image_id": first_of(image, ("cocoid", "imgid")), "file_name": image.get("filename")}
            yield record._replace(fields={**image, **fields})


def _grouped(records: Iterator[TaskRow]) -> Iterator[TaskRow]:
    """Yields one row per image from data with one row per caption.

    TextCaps repeats all captions of an image in each of its rows; rows of other data hold one caption.
    """
    groups: dict[str, tuple[TaskRow, list[str]]] = {}
    for record in records:
        row = record.fields if isinstance(record.fields, Mapping) else {}
        repeated, own = row.get("reference_strs"), first_of(row, CAPTION_FIELDS)
        name = first_of(row, CAPTION_ID_FIELDS) if isinstance(repeated, list) or isinstance(own, str) else None
        if not isinstance(name, str | int):
            yield record
        elif isinstance(repeated, list):
            groups.setdefault(str(name), (record, repeated))
        else:
            groups.setdefault(str(name), (record, []))[1].append(str(own))
    for record, captions in groups.values():
        yield record._replace(fields={**record.fields, "captions": captions})


def caption_samples(row: Mapping[str, Any], collector: Collector) -> Iterator[Sample]:
    """Makes the sample of an image and its captions."""
    name, value = text_of(row, *CAPTION_ID_FIELDS), first_of(row, CAPTION_IMAGE_FIELDS)
    captions, places = texts_of(row, *CAPTION_FIELDS), file_names(name) if value is None else [value]
    if isinstance(value, str):
        # by its path, in its folder ("filepath" in Karpathy's file), or by its name (TextCaps)
        folder, image_name = (text_of(row, field, optional=True) for field in ("filepath", "image_name"))
        places = [*([f"{folder}/{value}"] if folder else []), value, f"{value}.jpg"]
        places += [f"{image_name}.jpg"] if image_name else []
    yield Sample(name, "", (collector.image(*places),), captions, text_of(row, "domain", optional=True))


def vlguard_samples(row: Mapping[str, Any], collector: Collector) -> Iterator[Sample]:
    """Makes the samples of a row of VLGuard, `{"id", "image", "safe", "instr-resp"}`.

    An unsafe image has one instruction under "instruction", a safe one two, under "safe_instruction" and
    "unsafe_instruction"; each is a sample.
    """
    if not isinstance(row.get("safe"), bool):
        raise BadRow(f"safe is {row.get('safe')!r}; it must be true or false")
    turns = row.get("instr-resp")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRow("instr-resp is missing or no list of instructions")
    name, image = text_of(row, "id", "image"), collector.image(row.get("image"))
    for field, subset in (_OF_SAFE_IMAGES if row["safe"] else {"instruction": UNSAFES}).items():
        turn: Mapping[str, Any] = next((turn for turn in turns if turn.get(field)), {})
        response = text_of(turn, "response", optional=True)
        references, facts = (response,) if response else (), {"safe": subset == SAFE_SAFES}
        yield Sample(f"{name}/{subset}", text_of(turn, field), (image,), references, subset, facts)
