"""The Cauldron's form: `images`, and `texts` of `{"user", "assistant", "source"}`, one after another."""

from collections.abc import Iterator, Mapping

from xgenmm_hf.data.adapters.base import Adapter, Context, Record, RejectedRecord, image_refs, list_of, text_of
from xgenmm_hf.data.rows import Row, chat_row, image_part, message


def convert(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a record into one chat of all its questions, the images before the first.

    Args:
        record: The record; its texts may hold `<image>` without it meaning an image.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row; its source also names that of its texts, where they share one.

    Raises:
        RejectedRecord: If a question or an answer is missing.
    """
    texts = list_of(record, "texts")
    if not texts or not all(isinstance(text, Mapping) for text in texts):
        raise RejectedRecord("fields", "texts holds no pair of user and assistant")
    images = image_refs(record.get("images"), context)
    messages = []
    for text in texts:
        messages += [message("user", text_of(text, "user")), message("assistant", text_of(text, "assistant"))]
    messages[0]["content"] = [image_part()] * len(images) + messages[0]["content"]
    origins = {text.get("source") for text in texts}
    origin = origins.pop() if len(origins) == 1 else None
    yield chat_row(id, f"{context.source}/{origin}" if origin else context.source, messages, images)


def matches(record: Record) -> bool:
    """Tells whether a record is of this form."""
    texts = record.get("texts")
    return isinstance(texts, list) and bool(texts) and isinstance(texts[0], Mapping) and "user" in texts[0]


ADAPTER = Adapter("cauldron", convert, matches, "chat")
