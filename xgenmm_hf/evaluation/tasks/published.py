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
    Row,
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

    collector.collect(read_rows(*files), make)


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


def _joined(files: Sequence[Path], collector: Collector) -> Iterator[Row]:
    """Returns rows with question and answers, joined from the two files where there are two."""
    documents = {path: read_document(path) for path in files}
    parts = {name: [path for path in files if name in documents[path]] for name in ("questions", "annotations")}
    if not any(parts.values()):
        return read_rows(*files)
    if odd := next((name for name, found in parts.items() if len(found) != 1), None):
        listed = ", ".join(path.name for path in files)
        raise ValueError(
            f"There are {len(parts[odd])} files with {odd} among {listed}; give one with questions and one with "
            "annotations."
        )
    (asked,), (answered,) = parts.values()
    if unused := [path.name for path in files if path not in (asked, answered)]:
        raise ValueError(f"{unused[0]} would not be used beside the other files: leave it out, or read it on its own.")
    subset = documents[asked].get("data_subtype") or documents[answered].get("data_subtype") or ""
    questions = numbered(asked, documents[asked]["questions"])
    return _join(questions, numbered(answered, documents[answered]["annotations"]), subset, collector)


def _join(questions: Iterator[Row], annotations: Iterator[Row], subset: str, collector: Collector) -> Iterator[Row]:
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
    asked = set()
    for record in questions:
        key = _question_id(record)
        asked.add(key)
        if key in by_id:
            row = {"data_subtype": subset, **by_id[key].fields, **record.fields}
            yield Row(record.source, f"question {key}", row)
        else:
            reason = "the question has no question_id" if key is None else f"the question {key} has no annotation"
            collector.reject(record, reason)
    for key, record in by_id.items():
        if key not in asked:
            collector.reject(record, f"the annotation is of a question {key} that is not there")


def _question_id(record: Row) -> str | int | None:
    key = record.fields.get("question_id") if isinstance(record.fields, Mapping) else None
    return key if isinstance(key, str | int) else None


def read_captions(files: Sequence[Path], collector: Collector, split: str | None = None) -> None:
    """Reads captions; `split` is of Karpathy's files."""

    def make(row: Mapping[str, Any]) -> Iterator[Sample]:
        name, value = text_of(row, *CAPTION_ID_FIELDS), first_of(row, CAPTION_IMAGE_FIELDS)
        captions = texts_of(row, *CAPTION_FIELDS)
        if isinstance(value, str):
            # by its path, in its folder ("filepath" in Karpathy's file), or by its name (TextCaps)
            folder, image_name = (text_of(row, field, optional=True) for field in ("filepath", "image_name"))
            places = [f"{folder}/{value}"] if folder else []
            places += [value, *([] if Path(value).suffix else [f"{value}.jpg"])]
            image = collector.image_among([*places, *([f"{image_name}.jpg"] if image_name else [])])
        else:
            image = collector.image_among(coco_file_names(name)) if value is None else collector.image(value)
        yield Sample(name, "", (image,), captions, text_of(row, "domain", optional=True))

    for path in files:
        lists = read_document(path)
        images, annotations = lists.get("images"), lists.get("annotations")
        if isinstance(images, list) and annotations is None:
            collector.collect(_karpathy(path, images, split or "test"), make)
        elif split is not None:
            raise ValueError(f"{path} has no splits: leave out --split, and give the file of the split.")
        elif isinstance(images, list) and isinstance(annotations, list):
            collector.collect(_coco(path, images, annotations, collector), make)
        else:
            collector.collect(_grouped(read_rows(path)), make)


def _coco(path: Path, images: list[Any], annotations: list[Any], collector: Collector) -> Iterator[Row]:
    """Yields COCO's images with their captions; a caption of no image is a problem, a bad one too."""
    ids = (image.get("id") for image in images if isinstance(image, Mapping))
    captions: dict[Any, list[str]] = {name: [] for name in ids if isinstance(name, str | int)}
    seen: set[str] = set()
    for record in numbered(path, annotations, "caption"):
        row = record.fields if isinstance(record.fields, Mapping) else {}
        caption, key, label = row.get("caption"), row.get("image_id"), plain_text(row.get("id"))
        if not isinstance(caption, str) or not caption.strip():
            collector.reject(record, "the caption is missing or no text")
        elif not isinstance(key, str | int) or key not in captions:
            collector.reject(record, f"the caption is of an image {key!r} that is not listed")
        elif label and label in seen:
            collector.reject(record, f"the caption's id {label} was there before; the first one counts")
        else:
            captions[key].append(caption)
            seen.add(label or "")
    for record in numbered(path, images, "image"):
        image = record.fields
        if isinstance(image, Mapping):
            key = image.get("id")
            found = captions[key] if isinstance(key, str | int) else []
            record = record._replace(fields={**image, "image_id": key, "captions": found or None})
        yield record


def _karpathy(path: Path, images: list[Any], split: str) -> Iterator[Row]:
    named = (image.get("split") for image in images if isinstance(image, Mapping))
    splits = {name for name in named if isinstance(name, str)}
    if split not in splits:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(sorted(splits)) or 'none'}.")
    for record in numbered(path, images, "image"):
        image = record.fields
        if not isinstance(image, Mapping):
            yield record
        elif not isinstance(image.get("split"), str):
            yield record._replace(fields=BadRow("split is missing or no text"))
        elif image["split"] == split:
            fields = {"image_id": first_of(image, ("cocoid", "imgid")), "file_name": image.get("filename")}
            yield record._replace(fields={**image, **fields})


def _grouped(records: Iterator[Row]) -> Iterator[Row]:
    """Yields rows, one per image, where the data has one a caption.

    TextCaps repeats all captions of an image in each of its rows; rows of other data state their own alone.
    """
    groups: dict[str, tuple[Row, list[str]]] = {}
    for record in records:
        row = record.fields
        repeated = isinstance(row, Mapping) and isinstance(row.get("reference_strs"), list)
        own = None if not isinstance(row, Mapping) or repeated else first_of(row, CAPTION_FIELDS)
        name = first_of(row, CAPTION_ID_FIELDS) if repeated or isinstance(own, str) else None
        if not isinstance(name, str | int):
            yield record
        elif repeated:
            groups.setdefault(str(name), (record, row["reference_strs"]))
        else:
            groups.setdefault(str(name), (record, []))[1].append(str(own))
    for record, captions in groups.values():
        yield record._replace(fields={**record.fields, "captions": captions})


def read_vlguard(files: Sequence[Path], collector: Collector) -> None:
    """Reads VLGuard's JSON.

    `{"id", "image", "safe", "instr-resp"}` a row. An unsafe image has one instruction under "instruction", a safe
    one two, under "safe_instruction" and "unsafe_instruction"; each is a sample.
    """

    def make(row: Mapping[str, Any]) -> Iterator[Sample]:
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

    collector.collect(read_rows(*files), make)
