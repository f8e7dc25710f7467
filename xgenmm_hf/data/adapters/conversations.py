"""Conversations: LLaVA's form and its many relatives, TRL's messages, The Cauldron, VLGuard (docs/data-formats.md)."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from xgenmm_hf.data.adapters.base import Adapter, Context, images_of
from xgenmm_hf.data.fields import Record, RejectedRecord, first_field, list_of, mappings_of, text_of
from xgenmm_hf.data.rows import ImageRef, Message, Part, Row, image_part, make_row, message, text_part


IMAGES = ("image", "images")
TURNS = ("conversations", "conversation")
ROLE_OF = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# MMDU has its own marker. A line break after a marker is removed: the chat template writes one after each image.
MARKER = re.compile(r"(?:<image>|<ImageHere>)\n?")
KIND_OF_PAIR = {
    (False, "instruction"): "unsafe_image",
    (True, "unsafe_instruction"): "unsafe_instruction",
    (True, "safe_instruction"): "safe",
}


def _llava(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a record of `conversations` (LLaVA, LLaVA-OneVision, MMDU) or `conversation` (Mantis) into a chat row."""
    name = first_field(record, TURNS) or TURNS[0]
    messages = [_turn(turn, f"turn {index}") for index, turn in enumerate(list_of(record, name))]
    if not any(turn["role"] == "assistant" and _has_text(turn) for turn in messages):
        raise RejectedRecord("no answer", "no turn of the assistant has any text")
    yield _finish_chat(id, context.source, messages, images_of(record, context, IMAGES), context)


def _trl(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a record in TRL's form (`messages`, or `prompt` with `completion` or with a pair) into a row."""
    images = images_of(record, context, IMAGES[::-1])
    if _kind_of_messages(record) == "preference":
        answers = {name: _messages(record, name, "assistant") for name in ("chosen", "rejected")}
        prompt = _place_images(_messages(record, "prompt", "user"), len(images))
        yield make_row(id, context.source, images, prompt=prompt, **answers)
        return
    if record.get("messages") is not None:
        messages = _messages(record, "messages", "user")
    else:
        messages = _messages(record, "prompt", "user")
        # A chat row cannot say that an answer in the prompt is not a target.
        if any(turn["role"] == "assistant" for turn in messages):
            reason = "prompt holds an answer, which would be trained too: write the chat as messages"
            raise RejectedRecord("roles", reason)
        messages += _messages(record, "completion", "assistant")
    yield _finish_chat(id, context.source, messages, images, context)


def _cauldron(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a record of The Cauldron into one chat of all its questions, with the images before the first."""
    texts = list(mappings_of(record.get("texts"), "texts"))
    if not texts:
        raise RejectedRecord("fields", "texts holds no pair of user and assistant")
    images = images_of(record, context, IMAGES)
    messages = [message(role, text_of(text, role)) for text in texts for role in ("user", "assistant")]
    origins = {str(text.get("source") or "") for text in texts}
    source = "/".join(filter(None, [context.source, *(origins if len(origins) == 1 else ())]))
    yield make_row(id, source, images, messages=_place_images(messages, len(images)))


def _vlguard(record: Record, id: str, context: Context) -> Iterator[Row]:
    """Turns a record of VLGuard into a chat row for each of its instructions."""
    safe = record.get("safe")
    if not isinstance(safe, bool):
        raise RejectedRecord("fields", f"safe is {safe!r:.20}; it must be true or false")
    images = images_of(record, context, IMAGES)
    if len(images) != 1:
        raise RejectedRecord("image", f"the record has {len(images)} images instead of one")
    number = Counter[str]()
    for pair in mappings_of(record.get("instr-resp"), "instr-resp"):
        # Read through `datasets`, each pair has all fields, the missing ones as None.
        names = [name for (flag, name) in KIND_OF_PAIR if flag == safe and pair.get(name) is not None]
        if len(names) != 1:
            held = sorted(name for name in pair if pair[name] is not None)
            raise RejectedRecord("fields", f"a pair of a {'safe' if safe else 'unsafe'} image holds {held}")
        kind = KIND_OF_PAIR[safe, names[0]]
        question = message("user", image_part(), text_of(pair, names[0]))
        answer = message("assistant", text_of(pair, "response"))
        suffix = f"-{number.total()}" if number[kind] else ""
        number[kind] += 1
        yield make_row(f"{id}/{kind}{suffix}", f"{context.source}/{kind}", images, messages=[question, answer])
    if not number:
        raise RejectedRecord("fields", "instr-resp is empty")


def _finish_chat(id: str, source: str, messages: list[Message], images: list[ImageRef], context: Context) -> Row:
    """Places a conversation's images; drops and counts an empty system turn and turns without a partner."""
    messages = _place_images(messages, len(images))
    if messages and messages[0]["role"] == "system" and not _has_text(messages[0]):
        context.notes["empty system turn"] += 1
        messages = messages[1:]
    start = 1 if messages and messages[0]["role"] == "system" else 0
    while len(messages) > start and messages[start]["role"] == "assistant":
        context.notes["answer before the first question"] += 1
        messages = messages[:start] + messages[start + 1 :]
    while messages and messages[-1]["role"] == "user":
        context.notes["question without an answer"] += 1
        images = images[: len(images) - sum(part["type"] == "image" for part in messages[-1]["content"])]
        messages = messages[:-1]
    return make_row(id, source, images, messages=messages)


def _place_images(messages: list[Message], num_images: int) -> list[Message]:
    """Puts the images that have no part before the first text of the user."""
    found = sum(part["type"] == "image" for turn in messages for part in turn["content"])
    if found > num_images:
        raise RejectedRecord("markers", f"{found} <image> marker(s) for {num_images} image(s)")
    if found < num_images:
        first = next((turn for turn in messages if turn["role"] == "user"), None)
        if first is None:
            raise RejectedRecord("markers", f"{num_images} image(s), but no turn of the user")
        first["content"] = [image_part()] * (num_images - found) + first["content"]
    return messages


def _split_markers(text: str) -> list[Part]:
    """Splits a text at its markers into image parts and non-empty text parts."""
    first, *rest = MARKER.split(text)
    parts = [text_part(first), *(part for piece in rest for part in (image_part(), text_part(piece)))]
    return [part for part in parts if part["type"] == "image" or part["text"]]


def _kind_of_messages(record: Record) -> str:
    return "preference" if record.get("chosen") is not None else "chat"


def _turn(turn: Any, where: str) -> Message:
    fields = turn if isinstance(turn, Mapping) else {}
    speaker = fields.get(first_field(fields, ("from", "role")) or "from")
    if not isinstance(speaker, str) or speaker not in ROLE_OF:
        what = speaker if fields else turn
        raise RejectedRecord("roles", f"{where} is from {what!r:.40}; use human, gpt or system")
    role, name = ROLE_OF[speaker], first_field(fields, ("value", "content")) or "value"
    if fields.get(name) is None:
        raise RejectedRecord("fields", f"{where} has no text: its {name} is None")
    return {"role": role, "content": _parts(fields[name], role, where)}


def _messages(record: Record, name: str, role: str) -> list[Message]:
    """Reads a field that is a list of messages, or one text of a given role."""
    if name != "messages" and isinstance(record.get(name), str):
        return [{"role": role, "content": _parts(record[name], role, name)}]
    return [_turn(turn, f"{name}[{index}]") for index, turn in enumerate(list_of(record, name))]


def _parts(content: Any, role: str, where: str) -> list[Part]:
    """Returns the parts of one message; only strings of the user may hold markers, empty texts are dropped."""
    if isinstance(content, str):
        return _split_markers(content) if role == "user" else [text_part(content)]
    if not isinstance(content, list):
        raise RejectedRecord("fields", f"{where} has a {type(content).__name__} as content")
    parts: list[Part] = []
    for item in content:
        item = {"type": "text", "text": item} if isinstance(item, str) else item
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "image":
            parts.append(image_part())
        elif kind == "text" and isinstance(item.get("text"), str):
            parts += [text_part(item["text"])] if item["text"] else []
        else:
            raise RejectedRecord("fields", f"{where} holds a part of type {kind!r}; use text and image")
    return parts


def _has_text(turn: Message) -> bool:
    return any((part["text"] or "").strip() for part in turn["content"])


def _matches_cauldron(record: Record) -> bool:
    texts = record.get("texts")
    return isinstance(texts, list) and bool(texts) and isinstance(texts[0], Mapping) and "user" in texts[0]


ADAPTERS = (
    Adapter("llava", _llava, lambda record: not {*TURNS}.isdisjoint(record), "chat"),
    Adapter(
        "hub",
        _trl,
        lambda record: (
            "messages" in record or ("prompt" in record and not {"completion", "chosen"}.isdisjoint(record))
        ),
        _kind_of_messages,
    ),
    Adapter("cauldron", _cauldron, _matches_cauldron, "chat"),
    Adapter("vlguard", _vlguard, lambda record: "instr-resp" in record, "chat"),
)
