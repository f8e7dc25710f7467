"""Interleaved documents in the form of MINT-1T and OBELICS: parallel lists `texts` and `images`, one of them None.

Source: https://huggingface.co/datasets/HuggingFaceM4/OBELICS (fields), https://github.com/mlfoundations/MINT-1T.
Their images are published as addresses; here they are paths or bytes, downloaded before. The PDF and ArXiv parts of
MINT-1T are WebDataset shards with all images of a document in one TIFF file; see `webdataset`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from xgenmm_hf.data.adapters.base import Adapter, Context, Record, RejectedRecord, SkippedRecord, image_refs, list_of
from xgenmm_hf.data.rows import ImageRef, Part, Row, end_of_chunk_part, image_part, pretraining_row, text_part


MAX_IMAGES = 8
PARAGRAPH = "\n\n"


@dataclass
class Chunk:
    """Images that follow each other, and the texts up to the next one."""

    images: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def convert(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a document into a pre-training row: `<image>text<|endofchunk|>` for every image.

    Text before the first image stays in front. Images after the last text are left out: nothing can be learned
    from them. Option: `max_images` (default 8), the document ends before the image that would exceed it.

    Args:
        record: The document.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row.

    Raises:
        RejectedRecord: If the lists are not parallel, or an image is given as an address.
        SkippedRecord: If the document has no text, or no image with a text.
    """
    texts, images = list_of(record, "texts"), list_of(record, "images")
    chunks = cut(split_document(texts, images), context.options.get("max_images", MAX_IMAGES))
    refs = [ref for chunk in chunks for image in chunk.images for ref in image_refs(image, context)]
    yield document_row(id, context.source, chunks, refs)


def split_document(texts: Sequence[str | None], images: Sequence[Any]) -> list[Chunk]:
    """Groups a document into images with the texts that belong to them.

    Args:
        texts: Texts, None where an image stands.
        images: Images, None where a text stands.

    Returns:
        Chunks; the first may have no image, the last no text. Texts of white space alone are left out.

    Raises:
        RejectedRecord: If the lists differ in length, or one place has both a text and an image.
    """
    if len(texts) != len(images):
        raise RejectedRecord("fields", f"{len(texts)} texts beside {len(images)} images; the lists must be parallel")
    chunks = [Chunk()]
    for index, (text, image) in enumerate(zip(texts, images, strict=True)):
        if text is not None and image is not None:
            raise RejectedRecord("fields", f"place {index} has both a text and an image")
        if image is not None:
            if chunks[-1].texts:
                chunks.append(Chunk())
            chunks[-1].images.append(image)
        elif text is not None:
            if not isinstance(text, str):
                raise RejectedRecord("fields", f"text {index} is a {type(text).__name__}")
            if text.strip():
                chunks[-1].texts.append(text.strip())
    return chunks


def cut(chunks: Sequence[Chunk], max_images: int) -> list[Chunk]:
    """Keeps the beginning of a document with at most so many images, and leaves out images without a text.

    Args:
        chunks: The document.
        max_images: Images that may remain; of one chunk that has more the last ones, nearest to its text.

    Returns:
        Chunks that all have a text.

    Raises:
        ValueError: If `max_images` is no positive number.
    """
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


def document_row(id: str, source: str, chunks: Sequence[Chunk], refs: list[ImageRef]) -> Row:
    """Builds the row of a document.

    Args:
        id: Id of the row.
        source: Name of the data set.
        chunks: The document.
        refs: References of its images in order.

    Returns:
        The row.

    Raises:
        SkippedRecord: If there is no text or no image.
    """
    if not chunks:
        raise SkippedRecord("no text", "the document has no text")
    if not refs:
        raise SkippedRecord("no image", "the document has no image with a text after it")
    content: list[Part] = []
    for chunk in chunks:
        content += [image_part()] * len(chunk.images)
        content.append(text_part(PARAGRAPH.join(chunk.texts)))
        if chunk.images:
            content.append(end_of_chunk_part())
    return pretraining_row(id, source, content, refs)


def matches(record: Record) -> bool:
    """Tells whether a record is a document."""
    texts, images = record.get("texts"), record.get("images")
    return (
        isinstance(texts, list)
        and isinstance(images, list)
        and len(texts) == len(images)
        and all(text is None or isinstance(text, str) for text in texts)
    )


ADAPTER = Adapter("interleaved", convert, matches, "pretraining", frozenset({"max_images"}))
