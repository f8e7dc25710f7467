"""Training rows: the one form that every data adapter yields and every collator takes.

A row is a plain dict with `id`, `source`, `images` (references, see `image_refs`) and the fields of its kind, see
`KINDS`. Contents are lists of parts `{"type", "text"}`; the k-th image part shows the k-th of `images`. Text is raw:
control tokens that it spells out are escaped by the collators.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


Row = dict[str, Any]
Part = dict[str, str | None]
Message = dict[str, Any]
ImageRef = dict[str, Any]

KINDS = {"chat": ("messages",), "preference": ("prompt", "chosen", "rejected"), "pretraining": ("content",)}
ROLES = ("system", "user", "assistant")
DOCUMENT_PARTS = ("end_of_chunk", "image", "text")


class InvalidRow(ValueError):
    """A row that breaks the schema; its message says where and how."""


def text_part(text: str) -> Part:
    """Returns a part of text."""
    return {"type": "text", "text": text}


def image_part() -> Part:
    """Returns the part that stands for the next image."""
    return {"type": "image", "text": None}


def end_of_chunk_part() -> Part:
    """Returns the part that ends an image's text in a pre-training row."""
    return {"type": "end_of_chunk", "text": None}


def message(role: str, *content: str | Part) -> Message:
    """Returns a message; each string becomes a text part."""
    return {"role": role, "content": [text_part(part) if isinstance(part, str) else part for part in content]}


def make_row(id: str, source: str, images: Iterable[ImageRef] = (), **content: Sequence[Any]) -> Row:
    """Builds a row; `content` is `messages`, `content`, or `prompt`, `chosen` and `rejected`."""
    return {"id": id, "source": source, "images": list(images), **{name: list(it) for name, it in content.items()}}


def row_kind(row: Mapping[str, Any]) -> str:
    """Returns a row's kind: "chat", "preference" or "pretraining"."""
    found = [kind for kind, names in KINDS.items() if any(row.get(name) is not None for name in names)]
    if len(found) != 1:
        raise InvalidRow(
            f"the row holds fields of {' and '.join(found) if found else 'no kind'}; it needs either messages, or "
            "prompt with chosen and rejected, or content"
        )
    return found[0]


def features_of(kind: str) -> Any:
    """Returns the Arrow schema of one kind of rows."""
    from datasets import Features, Value

    if kind not in KINDS:
        raise ValueError(f"There is no kind of rows {kind!r}; there are {', '.join(KINDS)}.")
    string = Value("string")
    parts = [{"type": string, "text": string}]
    messages = [{"role": string, "content": parts}]
    content = {name: parts if name == "content" else messages for name in KINDS[kind]}
    # large_binary: a batch of images may pass the two gigabytes that Arrow's binary can address.
    images = [{"bytes": Value("large_binary"), "path": string}]
    return Features({"id": string, "source": string, "images": images, **content})


def validate_row(row: Mapping[str, Any]) -> str:
    """Checks that a row follows the schema, and returns its kind."""
    for name in ("id", "source"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise InvalidRow(f"{name} is {row.get(name)!r}; it must be a non-empty string")
    images = row.get("images")
    if not isinstance(images, list):
        raise InvalidRow(f"images is a {type(images).__name__}; it must be a list, empty for rows without images")
    for index, image in enumerate(images):
        if not isinstance(image, Mapping) and not hasattr(image, "convert"):  # or an image in memory
            raise InvalidRow(f"images[{index}] is a {type(image).__name__}; it must be a reference or an image")
        if isinstance(image, Mapping) and image.get("bytes") is None and not image.get("path"):
            raise InvalidRow(f"images[{index}] names neither bytes nor a path")
    kind = row_kind(row)
    if kind == "pretraining":
        found = count_images(row["content"], "content", DOCUMENT_PARTS)
        if not any(part["text"] for part in row["content"]):
            raise InvalidRow("content has no text to learn from")
    elif kind == "chat":
        found = _check_turns(row["messages"], "messages", last="assistant")
    else:
        found = _check_turns(row.get("prompt"), "prompt", last="user")
        for name in ("chosen", "rejected"):
            answer = row.get(name)
            if not isinstance(answer, list) or [turn.get("role") for turn in answer] != ["assistant"]:
                raise InvalidRow(f"{name} must be one message of the assistant")
            _check_turn(answer[0], name)
    if found != len(images):
        raise InvalidRow(f"{found} image part(s) for {len(images)} image(s)")
    return kind


def _check_turns(turns: Any, where: str, last: str) -> int:
    """Checks roles and contents of a conversation; returns how many image parts it holds."""
    if not isinstance(turns, list) or not turns:
        raise InvalidRow(f"{where} is empty or no list")
    expected, found = "user", 0
    for index, turn in enumerate(turns):
        role, place = turn.get("role") if isinstance(turn, Mapping) else None, f"{where}[{index}]"
        if role not in ROLES:
            raise InvalidRow(f"{place} has the role {role!r}; use {', '.join(ROLES)}")
        if role == "system" and index > 0:
            raise InvalidRow(f"{place} is a system turn; only the first may be one")
        if role not in ("system", expected):
            raise InvalidRow(f"{place} is a turn of the {role} where one of the {expected} belongs")
        if role != "system":
            expected = "assistant" if role == "user" else "user"
        found += _check_turn(turn, place, may_be_empty=role == "assistant")
    if turns[-1]["role"] != last:
        raise InvalidRow(f"{where} ends with a turn of the {turns[-1]['role']}; it must end with the {last}'s")
    return found


def _check_turn(turn: Message, where: str, may_be_empty: bool = False) -> int:
    """Checks the content of one turn; returns how many image parts it holds."""
    found = count_images(turn.get("content"), where)
    if found and turn["role"] != "user":
        raise InvalidRow(f"{where} holds an image; only turns of the user may")
    if not found and not may_be_empty and not any(part["text"] for part in turn["content"]):
        raise InvalidRow(f"{where} has neither text nor an image")
    return found


def count_images(content: Any, where: str, types: Sequence[str] = ("image", "text")) -> int:
    """Checks the types of parts; returns how many are images."""
    if not isinstance(content, list):
        raise InvalidRow(f"{where} has a {type(content).__name__} as content; it must be a list of parts")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in types:
            raise InvalidRow(f"{where}, part {index}, is of type {kind!r}; use {', '.join(types)}")
        if not isinstance(part.get("text"), str) if kind == "text" else part.get("text"):
            raise InvalidRow(f"{where}, part {index}: a text part holds a string, every other part None")
    return sum(part["type"] == "image" for part in content)
