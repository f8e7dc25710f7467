"""Captions: COCO's JSON (NoCaps has the same), Karpathy's split of it, TextCaps, and rows of image and captions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks.collector import Collector
from xgenmm_hf.evaluation.tasks.reading import (
    BadRow,
    Row,
    first_of,
    numbered,
    plain_text,
    read_document,
    read_rows,
    text_of,
    texts_of,
)
from xgenmm_hf.evaluation.tasks.vqa import coco_file_names


CAPTION_FIELDS = (
    *("captions", "reference_strs", "annotations_captions", "caption_str", "sentences", "caption"),
    *("answers", "answer"),
)
IMAGE_FIELDS = ("image", "file_name", "image_path", "image_name")
ID_FIELDS = ("image_id", "id", "question_id", "index")


def read_captions(files: Sequence[Path], collector: Collector, split: str | None = None) -> None:
    """Reads captions."""
    for path in files:
        lists = read_document(path) or {}
        images, annotations = lists.get("images"), lists.get("annotations")
        if isinstance(images, list) and isinstance(annotations, list):
            records = _coco(path, images, annotations, collector)
        elif isinstance(images, list):
            records = _karpathy(path, images, split or "test")
        else:
            records = _grouped(read_rows(path))
        if split is not None and not (isinstance(images, list) and annotations is None):
            raise ValueError(f"{path} has no splits: leave out --split, and give the file of the split.")
        collector.collect(records, lambda row: _samples(row, collector))


def _samples(row: Mapping[str, Any], collector: Collector) -> Iterator[Sample]:
    name = text_of(row, *ID_FIELDS)
    value = first_of(row, IMAGE_FIELDS)
    captions = texts_of(row, *CAPTION_FIELDS)
    image = collector.image_among(coco_file_names(name)) if value is None else _among(collector, row, value)
    yield Sample(name, "", (image,), captions, text_of(row, "domain", optional=True))


def _among(collector: Collector, row: Mapping[str, Any], value: Any) -> Any:
    """Finds an image by its path, in its folder ("filepath" in Karpathy's file), or by its name (TextCaps)."""
    if not isinstance(value, str):
        return collector.image(value)
    folder, name = text_of(row, "filepath", optional=True), text_of(row, "image_name", optional=True)
    places = [f"{folder}/{value}"] if folder else []
    places += [value, *([] if Path(value).suffix else [f"{value}.jpg"]), *([f"{name}.jpg"] if name else [])]
    return collector.image_among(places)


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
        name = first_of(row, ID_FIELDS) if repeated or isinstance(own, str) else None
        if not isinstance(name, str | int):
            yield record
        elif repeated:
            groups.setdefault(str(name), (record, row["reference_strs"]))
        else:
            groups.setdefault(str(name), (record, []))[1].append(str(own))
    for record, captions in groups.values():
        yield record._replace(fields={**record.fields, "captions": captions})
