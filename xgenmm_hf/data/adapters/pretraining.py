"""Pre-training sets: captioned images, OCR and grounding captions, interleaved documents.

Sources of the published columns: docs/data-formats.md.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from xgenmm_hf.data.adapters.base import Adapter, Context, image_refs, images_of
from xgenmm_hf.data.fields import (
    ADDRESS_FIELDS,
    CAPTION_FIELDS,
    IMAGE_FIELDS,
    Record,
    RejectedRecord,
    SkippedRecord,
    first_field,
    list_of,
    mappings_of,
)
from xgenmm_hf.data.rows import ImageRef, Part, Row, end_of_chunk_part, image_part, make_row, text_part


MAX_IMAGES = 8
PARAGRAPH = "\n\n"
GRANULARITIES = range(1, 7)
FORMS = ("place", "tags", "extent")
GROUNDED = {"captions", "cogvlm_caption"}
# Quotations are matched first, so that what they hold is never taken for a filler.
FILLERS = re.compile(
    r"""(?P<quoted>"[^"]*"|<ocr>.*?</ocr>)"""
    r"""|^\s*(?:the|this)\s+image\s+(?:contains|shows)\s+(?=the\s+text\s|text\s|"|<ocr>)"""
    r"""|\b(?:the\s+)?text\s+(?="|<ocr>)""",
    re.IGNORECASE | re.DOTALL,
)


def _caption_row(id: str, context: Context, caption: str, images: list[ImageRef]) -> Row:
    """Builds the row of one captioned image: `<image>caption<|endofchunk|>`."""
    if len(images) != 1:
        raise RejectedRecord("image", f"a caption belongs to one image; the record has {len(images)}")
    if not caption.strip():
        raise SkippedRecord("empty caption", "the image has no text")
    content = [image_part(), text_part(caption.strip()), end_of_chunk_part()]
    return make_row(id, context.source, images, content=content)


def _captions(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a captioned image into a pre-training row."""
    name = context.options.get("caption_column") or first_field(record, CAPTION_FIELDS) or "caption"
    if not isinstance(record.get(name), str):
        raise RejectedRecord("fields", f"{name} is {record.get(name)!r:.60}; it must be a string")
    yield _caption_row(id, context, record[name], images_of(record, context))


def _ocr(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns an image with captions of the texts in it into a pre-training row, or a document into one per page."""
    granularity, fillers = context.options.get("granularity", 1), context.options.get("fillers", False)
    if granularity not in GRANULARITIES:
        raise ValueError(f"The option granularity is {granularity!r}; use 1 to 6.")
    if record.get("pages") is not None:
        if granularity != 1:
            raise ValueError(f"The option granularity is {granularity}; the boxes of pages are not read, use 1.")
        captions = _page_captions(record)
    else:
        captions = [_ocr_caption_of(record, granularity)]
    captions = captions if fillers else [drop_fillers(caption) for caption in captions]
    if not any(caption.strip() for caption in captions):
        raise SkippedRecord("no text", "the image holds no text")
    images = images_of(record, context)
    if record.get("pages") is None:
        yield _caption_row(id, context, captions[0], images)
        return
    if len(images) != len(captions):
        raise RejectedRecord("image", f"{len(images)} image(s) for {len(captions)} page(s)")
    for number, (caption, image) in enumerate(zip(captions, images, strict=True)):
        if caption:
            yield _caption_row(f"{id}/{number}", context, caption, [image])
        else:
            context.notes["page without text"] += 1


def drop_fillers(caption: str) -> str:
    """Removes the fillers of a published OCR caption; the quoted texts and their places stay as they are."""
    return FILLERS.sub(lambda match: match["quoted"] or "", caption).strip()


def _grounding(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns an image with grounded captions into a pre-training row."""
    form = context.options.get("form", FORMS[0])
    yield _caption_row(id, context, _grounded_caption_of(record, form), images_of(record, context))


def form_of(caption: str) -> str | None:
    """Returns the form in which a caption says where its objects are, or None if it does not."""
    if "<bbox>" in caption:
        return "tags"
    if re.search(r"\(starts at [(\[]", caption, re.IGNORECASE):
        return "extent"
    return "place" if re.search(r"\([^)]*\b(?:center|corner|left|right|top|bottom)\b[^)]*\)", caption) else None


class Chunk(NamedTuple):
    """Images that follow each other, and the texts up to the next one."""

    images: list[ImageRef]
    texts: list[str]


def _document(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns an interleaved document into a pre-training row: `<image>text<|endofchunk|>` for every image.

    It ends before the image that would exceed `max_images`. If one text has more images, the last ones are kept.
    """
    max_images = context.options.get("max_images", MAX_IMAGES)
    if not isinstance(max_images, int) or max_images < 1:
        raise ValueError(f"The option max_images is {max_images!r}; give a positive number.")
    content: list[Part] = []
    refs: list[ImageRef] = []
    for images, texts in _split_document(list_of(record, "texts"), list_of(record, "images"), context):
        images = images[-max_images:]
        if len(refs) + len(images) > max_images:
            break
        refs += images
        content += [*[image_part()] * len(images), text_part(PARAGRAPH.join(texts))]
        content += [end_of_chunk_part()] if images else []
    if not content:
        raise SkippedRecord("no text", "the document has no text")
    if not refs:
        raise SkippedRecord("no image", "the document has no image with a text after it")
    yield make_row(id, context.source, refs, content=content)


def _split_document(texts: Sequence[Any], images: Sequence[Any], context: Context) -> list[Chunk]:
    """Groups a document into images with their texts; only the first chunk may have no image."""
    if len(texts) != len(images):
        raise RejectedRecord("fields", f"{len(texts)} texts and {len(images)} images; the lists must be parallel")
    chunks = [Chunk([], [])]
    for index, (text, image) in enumerate(zip(texts, images, strict=True)):
        if text is not None and image is not None:
            raise RejectedRecord("fields", f"place {index} has both a text and an image")
        if not isinstance(text, str | None):
            raise RejectedRecord("fields", f"text {index} is a {type(text).__name__}")
        if text is not None and text.strip():
            chunks[-1].texts.append(text.strip())
        try:
            refs = image_refs(image, context)
        except SkippedRecord as problem:
            context.notes[f"image {problem.kind}"] += 1
            continue
        if chunks[-1].texts and refs:
            chunks.append(Chunk([], []))
        chunks[-1].images.extend(refs)
    return [chunk for chunk in chunks if chunk.texts]


def _page_captions(record: Record) -> list[str]:
    captions = []
    for page in mappings_of(record["pages"], "pages"):
        texts = [f'the text "{text}"' for text in list_of(page, "text") if isinstance(text, str) and text.strip()]
        captions.append(f"The image contains {', '.join(texts)}" if texts else "")
    return captions


def _captions_of(record: Record) -> list:
    return [] if record.get("captions") == "" else list_of(record, "captions")


def _ocr_caption_of(record: Record, granularity: int) -> str:
    """Returns the caption of one granularity, without the image's alt text; the data set counts from 0."""
    captions = _captions_of(record)
    found = [item for item in captions if isinstance(item, Mapping) and item.get("granularity") == granularity - 1]
    if captions and not found:
        raise RejectedRecord("fields", f"captions holds none of granularity {granularity - 1}")
    found.sort(key=lambda item: bool(item.get("include_datacomp_raw_cap")))
    return str(found[0].get("text") or "") if found else ""


def _grounded_caption_of(record: Record, form: str) -> str:
    """Returns the first caption of a form; a caption is a string, or the first in a list or mapping."""
    if form not in FORMS:
        raise ValueError(f"There is no grounding form {form!r}; use {', '.join(FORMS)}.")
    texts = []
    for item in _captions_of(record):
        if isinstance(item, Mapping):
            item = item.get(first_field(item, ("text", "caption")) or "text")
        elif isinstance(item, (list, tuple)):
            item = next((part for part in item if isinstance(part, str)), None)
        if isinstance(item, str):
            texts.append(item)
    if not texts:
        raise SkippedRecord("empty caption", "the record has no grounded caption")
    found = next((text for text in texts if form_of(text) == form), None)
    if found is None:
        forms = ", ".join(sorted({form_of(text) or "without places" for text in texts}))
        raise RejectedRecord("fields", f"no caption has the form {form}; there are: {forms}")
    return found


def _matches_captions(record: Record) -> bool:
    return bool(first_field(record, (*IMAGE_FIELDS, *ADDRESS_FIELDS)) and first_field(record, CAPTION_FIELDS))


def _matches_ocr(record: Record) -> bool:
    captions, pages = record.get("captions"), record.get("pages")
    if isinstance(captions, str) and '"granularity"' in captions and "cogvlm_caption" not in record:
        return True
    return isinstance(pages, list) and bool(pages) and isinstance(pages[0], Mapping) and "text" in pages[0]


def _matches_document(record: Record) -> bool:
    texts, images = record.get("texts"), record.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        return False
    return all(text is None or isinstance(text, str) for text in texts)


ADAPTERS = (
    Adapter("interleaved", _document, _matches_document, "pretraining", frozenset({"max_images"})),
    Adapter("captions", _captions, _matches_captions, "pretraining", frozenset({"image_column", "caption_column"})),
    Adapter("ocr", _ocr, _matches_ocr, "pretraining", frozenset({"granularity", "fillers", "image_column"})),
    Adapter("grounding", _grounding, GROUNDED.issubset, "pretraining", frozenset({"form", "image_column"})),
)
