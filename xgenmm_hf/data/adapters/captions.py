"""Caption sets: an image and its caption; also the OCR and the grounding sets, whose captions are built from boxes.

Source of the published columns: https://huggingface.co/datasets/Salesforce/blip3-ocr-200m (`captions`: a JSON list of
`{"text", "granularity": 0-5, "include_datacomp_raw_cap"}`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from xgenmm_hf.data.adapters.base import (
    Adapter,
    Context,
    Record,
    RejectedRecord,
    SkippedRecord,
    as_records,
    first_field,
    image_refs,
    list_of,
    text_of,
)
from xgenmm_hf.data.grounding_captions import FORMS, grounding_caption
from xgenmm_hf.data.ocr_captions import GRANULARITIES, drop_fillers, ocr_caption
from xgenmm_hf.data.places import Box, checked_box
from xgenmm_hf.data.rows import ImageRef, Row, end_of_chunk_part, image_part, pretraining_row, text_part


IMAGE_FIELDS = ("image", "images", "image_path", "img_path", "path", "filepath", "file_name", "filename", "url")
CAPTION_FIELDS = ("caption", "text", "txt", "alt_text", "TEXT", "re_caption", "cogvlm_caption")


def caption_row(id: str, context: Context, caption: str, images: list[ImageRef]) -> Row:
    """Builds the row of one captioned image: `<image>caption<|endofchunk|>`.

    Raises:
        RejectedRecord: If there is not exactly one image.
    """
    if len(images) != 1:
        raise RejectedRecord("image", f"a caption belongs to one image; the record has {len(images)}")
    return pretraining_row(id, context.source, [image_part(), text_part(caption), end_of_chunk_part()], images)


def convert(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a captioned image into a pre-training row.

    Options: `image_column` and `caption_column` name the columns where they are not among the usual ones.

    Args:
        record: The record.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row.

    Raises:
        RejectedRecord: If the image or the caption is missing.
    """
    caption = context.options.get("caption_column") or first_field(record, CAPTION_FIELDS) or "caption"
    yield caption_row(id, context, text_of(record, caption).strip(), _images(record, context))


def convert_ocr(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns an image with the texts that stand in it into a pre-training row.

    Options: `granularity` (1-6, default 1: text without boxes) and `fillers` (default false: phrases such as
    "the text" are dropped).

    Args:
        record: With `captions` as published, or `texts` of `{"text", "bbox"}` with boxes in fractions.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row.

    Raises:
        RejectedRecord: If the boxes or the captions are malformed.
        SkippedRecord: If the image holds no text.
    """
    granularity, fillers = context.options.get("granularity", 1), context.options.get("fillers", False)
    if granularity not in GRANULARITIES:
        raise ValueError(f"The option granularity is {granularity!r}; use 1 to 6.")
    if record.get("captions") is not None:
        caption = _published_caption(record, granularity)
        caption = caption if fillers else drop_fillers(caption)
    else:
        caption = ocr_caption(_boxes(list_of(record, "texts"), "text"), granularity, fillers)
    if not caption.strip():
        raise SkippedRecord("no text", "the image holds no text")
    yield caption_row(id, context, caption, _images(record, context))


def convert_grounding(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a captioned image with the boxes of its objects into a pre-training row.

    Option: `form` ("place", "tags" or "extent"; default "place").

    Args:
        record: With `caption` and `objects` of `{"name", "bbox"}`, boxes in fractions.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row.

    Raises:
        RejectedRecord: If the caption or the boxes are malformed.
    """
    form = context.options.get("form", FORMS[0])
    objects = _boxes(record.get("objects"), "name")
    caption = grounding_caption(text_of(record, "caption").strip(), objects, form)
    yield caption_row(id, context, caption, _images(record, context))


def _images(record: Record, context: Context) -> list[ImageRef]:
    """Returns the images of a record, from the named or the first known column."""
    column = context.options.get("image_column") or first_field(record, IMAGE_FIELDS)
    return image_refs(record.get(column) if column else None, context)


def _boxes(value: Any, name: str) -> list[tuple[str, Box]]:
    """Reads texts or names with their boxes."""
    found = []
    for item in as_records(value, "boxes"):
        try:
            found.append((text_of(item, name), checked_box(item.get("bbox") or ())))
        except ValueError as error:
            raise RejectedRecord("box", str(error)) from None
    return found


def _published_caption(record: Record, granularity: int) -> str:
    """Returns the caption of one granularity, without the image's alt text; the data set counts from 0."""
    found = [item for item in list_of(record, "captions") if isinstance(item, Mapping)]
    found = [item for item in found if item.get("granularity") == granularity - 1]
    if not found:
        raise RejectedRecord("fields", f"captions holds none of granularity {granularity - 1}")
    found.sort(key=lambda item: bool(item.get("include_datacomp_raw_cap")))
    return text_of(found[0], "text")


def matches(record: Record) -> bool:
    """Tells whether a record is a captioned image and nothing more."""
    return first_field(record, IMAGE_FIELDS) is not None and first_field(record, CAPTION_FIELDS) is not None


def matches_ocr(record: Record) -> bool:
    """Tells whether a record is of an OCR set."""
    captions, texts = record.get("captions"), record.get("texts")
    published = isinstance(captions, str) and '"granularity"' in captions
    if not isinstance(texts, list) or not texts:
        return published
    return isinstance(texts[0], Mapping) and "bbox" in texts[0]


ADAPTER = Adapter("captions", convert, matches, "pretraining", frozenset({"image_column", "caption_column"}))
OCR_ADAPTER = Adapter(
    "ocr", convert_ocr, matches_ocr, "pretraining", frozenset({"granularity", "fillers", "image_column"})
)
GROUNDING_ADAPTER = Adapter(
    "grounding",
    convert_grounding,
    lambda record: "objects" in record and "caption" in record,
    "pretraining",
    frozenset({"form", "image_column"}),
)
