"""Pre-training sets: captioned images, OCR and grounding captions, interleaved documents.

Sources of the published columns: docs/data-formats.md.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from xgenmm_hf.data.rows import ImageRef, Part, Row, end_of_chunk_part, image_part, pretraining_row, text_part


MAX_IMAGES = 8
PARAGRAPH = "\n\n"
GRANULARITIES = range(1, 7)
FORMS = ("place", "tags", "extent")
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
    return pretraining_row(id, context.source, [image_part(), text_part(caption.strip()), end_of_chunk_part()], images)


def _captions(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a captioned image into a pre-training row.

    Options: `image_column` and `caption_column` name the columns where they are not among the usual ones.
    """
    name = context.options.get("caption_column") or first_field(record, CAPTION_FIELDS) or "caption"
    caption = record.get(name)
    if not isinstance(caption, str):
        raise RejectedRecord("fields", f"{name} is {caption!r:.60}; it must be a string")
    yield _caption_row(id, context, caption, images_of(record, context))


def _ocr(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns an image with captions of the texts in it into a pre-training row, or a document into one per page.

    Options: `granularity` (1-6, default 1: text without boxes) and `fillers` (default false: phrases such as
    "the text" are dropped).
    """
    granularity, fillers = context.options.get("granularity", 1), context.options.get("fillers", False)
    if granularity not in GRANULARITIES:
        raise ValueError(f"The option granularity is {granularity!r}; use 1 to 6.")
    if record.get("pages") is not None:
        if granularity != 1:
            raise ValueError(f"The option granularity is {granularity}; the boxes of pages are not read, use 1.")
        yield from _page_rows(record, id, context, fillers)
        return
    caption = _ocr_caption_of(record, granularity)
    caption = caption if fillers else drop_fillers(caption)
    if not caption.strip():
        raise SkippedRecord("no text", "the image holds no text")
    yield _caption_row(id, context, caption, images_of(record, context))


def drop_fillers(caption: str) -> str:
    """Removes the fillers of a published OCR caption; the quoted texts and their places stay as they are."""
    return FILLERS.sub(lambda match: match["quoted"] or "", caption).strip()


def _grounding(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns an image with grounded captions into a pre-training row.

    Option: `form` ("place", "tags" or "extent"; default "place").
    """
    caption = _grounded_caption_of(record, context.options.get("form", FORMS[0]))
    yield _caption_row(id, context, caption, images_of(record, context))


def form_of(caption: str) -> str | None:
    """Tells in which form a caption says where its objects are; None: in none."""
    if "<bbox>" in caption:
        return "tags"
    if re.search(r"\(starts at [(\[]", caption, re.IGNORECASE):
        return "extent"
    return "place" if re.search(r"\([^)]*\b(?:center|corner|left|right|top|bottom)\b[^)]*\)", caption) else None


@dataclass
class Chunk:
    """Images that follow each other, and the texts up to the next one."""

    images: list[ImageRef] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def _document(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns an interleaved document into a pre-training row: `<image>text<|endofchunk|>` for every image.

    `texts` and `images` are lists of one length, None in one of them at every place, as MINT-1T and OBELICS have
    them. Text before the first image stays in front. Images after the last text are left out: nothing can be learned
    from them; so are images that were not downloaded, which are counted. Option: `max_images` (default 8), the
    document ends before the image that would exceed it.
    """
    texts, images = list_of(record, "texts"), list_of(record, "images")
    chunks = _cut(_split_document(texts, images, context), context.options.get("max_images", MAX_IMAGES))
    if not chunks:
        raise SkippedRecord("no text", "the document has no text")
    refs = [ref for chunk in chunks for ref in chunk.images]
    if not refs:
        raise SkippedRecord("no image", "the document has no image with a text after it")
    content: list[Part] = []
    for chunk in chunks:
        content += [image_part()] * len(chunk.images)
        content.append(text_part(PARAGRAPH.join(chunk.texts)))
        if chunk.images:
            content.append(end_of_chunk_part())
    yield pretraining_row(id, context.source, content, refs)


def _split_document(texts: Sequence[Any], images: Sequence[Any], context: Context) -> list[Chunk]:
    """Groups a document into images with their texts; the first chunk may have no image, the last no text."""
    if len(texts) != len(images):
        raise RejectedRecord("fields", f"{len(texts)} texts beside {len(images)} images; the lists must be parallel")
    chunks = [Chunk()]
    for index, (text, image) in enumerate(zip(texts, images, strict=True)):
        if text is not None and image is not None:
            raise RejectedRecord("fields", f"place {index} has both a text and an image")
        if image is not None:
            try:
                refs = image_refs(image, context)
            except SkippedRecord as problem:
                context.notes[f"image {problem.kind}"] += 1
                continue
            if chunks[-1].texts and refs:
                chunks.append(Chunk())
            chunks[-1].images += refs
        elif text is not None:
            if not isinstance(text, str):
                raise RejectedRecord("fields", f"text {index} is a {type(text).__name__}")
            if text.strip():
                chunks[-1].texts.append(text.strip())
    return chunks


def _cut(chunks: Sequence[Chunk], max_images: Any) -> list[Chunk]:
    """Keeps the beginning of a document: chunks with a text, of one chunk's images the last, nearest to its text."""
    if not isinstance(max_images, int) or max_images < 1:
        raise ValueError(f"The option max_images is {max_images!r}; give a positive number.")
    kept: list[Chunk] = []
    total = 0
    for chunk in chunks:
        if not chunk.texts:
            continue
        images = chunk.images[-max_images:]
        total += len(images)
        if total > max_images:
            break
        kept.append(Chunk(images, chunk.texts))
    return kept


def _page_rows(record: Record, id: str, context: Context, fillers: bool) -> Iterator[Row]:
    pages = list(mappings_of(record["pages"], "pages"))
    images = images_of(record, context)
    if len(images) != len(pages):
        raise RejectedRecord("image", f"{len(images)} image(s) for {len(pages)} page(s)")
    found = False
    for number, (page, image) in enumerate(zip(pages, images, strict=True)):
        texts = [text for text in list_of(page, "text") if isinstance(text, str) and text.strip()]
        if not texts:
            context.notes["page without text"] += 1
            continue
        found = True
        caption = ", ".join(f'the text "{text}"' for text in texts)
        caption = f"The image contains {caption}"
        yield _caption_row(f"{id}/{number}", context, caption if fillers else drop_fillers(caption), [image])
    if not found:
        raise SkippedRecord("no text", "no page of the document holds text")


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
    """Returns the first caption of a form; a caption stands alone, first in a list, or under `text` or `caption`."""
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
    return first_field(record, (*IMAGE_FIELDS, *ADDRESS_FIELDS)) is not None and bool(
        first_field(record, CAPTION_FIELDS)
    )


def _matches_ocr(record: Record) -> bool:
    captions, pages = record.get("captions"), record.get("pages")
    if isinstance(captions, str) and '"granularity"' in captions and "cogvlm_caption" not in record:
        return True
    return isinstance(pages, list) and bool(pages) and isinstance(pages[0], Mapping) and "text" in pages[0]


def _matches_grounding(record: Record) -> bool:
    return {"captions", "cogvlm_caption"} <= record.keys()


def _matches_document(record: Record) -> bool:
    texts, images = record.get("texts"), record.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        return False
    return all(text is None or isinstance(text, str) for text in texts)


ADAPTERS = (
    Adapter("interleaved", _document, _matches_document, "pretraining", frozenset({"max_images"})),
    Adapter("captions", _captions, _matches_captions, "pretraining", frozenset({"image_column", "caption_column"})),
    Adapter("ocr", _ocr, _matches_ocr, "pretraining", frozenset({"granularity", "fillers", "image_column"})),
    Adapter("grounding", _grounding, _matches_grounding, "pretraining", frozenset({"form", "image_column"})),
)
