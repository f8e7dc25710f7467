"""The Hub's conversational form, as TRL documents it: `messages`, or `prompt` with `completion` or a preference pair.

Images are in `images` or `image`. Contents are strings (with `<image>` markers or without) or lists of parts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from xgenmm_hf.data.adapters.base import Adapter, Context, Record, RejectedRecord, first_field, image_refs, list_of
from xgenmm_hf.data.adapters.markers import add_missing, split_markers
from xgenmm_hf.data.rows import Message, Part, Row, chat_row, image_part, text_part


def convert(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a conversational record into a chat or a preference row.

    Args:
        record: The record.
        id: Id of the row.
        context: Where the record comes from.

    Yields:
        One row.

    Raises:
        RejectedRecord: If messages are malformed, image parts outnumber images, or a prompt beside a completion
            holds an answer.
    """
    images = image_refs(record.get(first_field(record, ("images", "image")) or "images"), context)
    if kind_of(record) == "preference":
        row: Row = {"id": id, "source": context.source, "images": images}
        row["prompt"] = _placed(_messages(record, "prompt", "user"), len(images))
        row["chosen"] = _messages(record, "chosen", "assistant")
        row["rejected"] = _messages(record, "rejected", "assistant")
        yield row
        return
    if record.get("messages") is not None:
        messages = _messages(record, "messages", "user")
    else:
        messages = _prompt(record) + _messages(record, "completion", "assistant")
    yield chat_row(id, context.source, _placed(messages, len(images)), images)


def kind_of(record: Record) -> str:
    """Returns the kind of the row that a record becomes."""
    return "preference" if record.get("chosen") is not None else "chat"


def matches(record: Record) -> bool:
    """Tells whether a record is of this form."""
    return "messages" in record or ("prompt" in record and not {"completion", "chosen"}.isdisjoint(record))


def _prompt(record: Record) -> list[Message]:
    """Reads the prompt of a completion; a chat row cannot say that an answer in it is no target."""
    messages = _messages(record, "prompt", "user")
    if any(turn["role"] == "assistant" for turn in messages):
        raise RejectedRecord("roles", "prompt holds an answer, which would be trained too: write the chat as messages")
    return messages


def _messages(record: Record, name: str, role: str) -> list[Message]:
    """Reads a field that is a list of messages, or one text of a given role."""
    if name != "messages" and isinstance(record.get(name), str):
        return [{"role": role, "content": _parts(record[name], role, name)}]
    messages = []
    for index, turn in enumerate(list_of(record, name)):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise RejectedRecord("roles", f"{name}[{index}] is no message with a role")
        content = _parts(turn.get("content"), turn["role"], f"{name}[{index}]")
        messages.append({"role": turn["role"], "content": content})
    return messages


def _parts(content: Any, role: str, where: str) -> list[Part]:
    """Reads the content of one message; markers count in strings of the user only."""
    if isinstance(content, str):
        return split_markers(content) if role == "user" else [text_part(content)]
    if not isinstance(content, list):
        raise RejectedRecord("fields", f"{where} has a {type(content).__name__} as content")
    return [part for item in content for part in _part(item, where)]


def _part(item: Any, where: str) -> list[Part]:
    """Reads one part of a content; empty texts are left out."""
    if isinstance(item, str):
        return [text_part(item)] if item else []
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind == "image":
        return [image_part()]
    if kind == "text" and isinstance(item.get("text"), str):
        return [text_part(item["text"])] if item["text"] else []
    raise RejectedRecord("fields", f"{where} holds a part of type {kind!r}; use text and image")


def _placed(messages: list[Message], num_images: int) -> list[Message]:
    """Adds image parts for the images that no part stands for."""
    found = sum(part["type"] == "image" for turn in messages for part in turn["content"])
    return add_missing(messages, found, num_images)


ADAPTER = Adapter("hub", convert, matches, kind_of)
