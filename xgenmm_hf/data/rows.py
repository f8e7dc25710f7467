"""Training rows: the one form that every data adapter yields and every collator takes.

A row is a plain dict with `id`, `source`, `images` (image references, see `image_refs`) and one of

- `messages`: a chat, for supervised tuning (kind "chat");
- `prompt`, `chosen`, `rejected`: a preference pair (kind "preference");
- `content`: parts of a document or a caption, for pre-training (kind "pretraining").

Contents are lists of parts `{"type", "text"}`. Image parts stand where an image belongs; the k-th one is the k-th of
`images`. Text is raw: control tokens that it spells out are escaped by the collators.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import datasets

Row = dict[str, Any]
Part = dict[str, str | None]
Message = dict[str, Any]
ImageRef = dict[str, Any]

KINDS = {"chat": ("messages",), "preference": ("prompt", "chosen", "rejected"), "pretraining": ("content",)}
ROLES = ("system", "user", "assistant")


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
    """Builds a message."""
    return {"role": role, "content": [text_part(part) if isinstance(part, str) else part for part in content]}


def chat_row(id: str, source: str, messages: Sequence[Message], images: Iterable[ImageRef] = ()) -> Row:
    """Builds a row for supervised tuning."""
    return {"id": id, "source": source, "images": list(images), "messages": list(messages)}


def preference_row(
    id: str,
    source: str,
    prompt: Sequence[Message],
    chosen: str,
    rejected: str,
    images: Iterable[ImageRef] = (),
) -> Row:
    """Builds a preference row from a prompt and two answers in plain text."""
    return {
        "id": id,
        "source": source,
        "images": list(images),
        "prompt": list(prompt),
        "chosen": [message("assistant", chosen)],
        "rejected": [message("assistant", rejected)],
    }


def pretraining_row(id: str, source: str, content: Sequence[Part], images: Iterable[ImageRef] = ()) -> Row:
    """Builds a pre-training row."""
    return {"id": id, "source": source, "images": list(images), "content": list(content)}


def row_kind(row: Mapping[str, Any]) -> str:
    """Returns a row's kind: "chat", "preference" or "pretraining"."""
    found = [kind for kind, names in KINDS.items() if any(row.get(name) is not None for name in names)]
    if len(found) != 1:
        raise InvalidRow(
            f"the row holds fields of {' and '.join(found) if found else 'no kind'}; it needs either messages, or "
            "prompt with chosen and rejected, or content"
        )
    return found[0]


def features_of(kind: str) -> "datasets.Features":
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
    """Checks that a row follows the schema."""
    for name in ("id", "source"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise InvalidRow(f"{name} is {row.get(name)!r}; it must be a non-empty string")
    images = row.get("images")
    if not isinstance(images, list):
        raise InvalidRow(f"images is a {type(images).__name__}; it must be a list, empty for rows without images")
    for index, image in enumerate(images):
        _check_image(image, f"images[{index}]")
    kind = row_kind(row)
    if kind == "pretraining":
        found = _check_content(row["content"])
    elif kind == "chat":
        found = _check_messages(row["messages"], "messages", last="assistant")
    else:
        found = _check_messages(row.get("prompt"), "prompt", last="user")
        for name in ("chosen", "rejected"):
            _check_answer(row.get(name), name)
    if found != len(images):
        raise InvalidRow(f"{found} image part(s) for {len(images)} image(s)")
    return kind


def _check_image(image: Any, where: str) -> None:
    """Checks one image reference; an image in memory counts as one."""
    if isinstance(image, Mapping):
        if image.get("bytes") is None and not image.get("path"):
            raise InvalidRow(f"{where} names neither bytes nor a path")
    elif not hasattr(image, "convert"):
        raise InvalidRow(f"{where} is a {type(image).__name__}; it must be a reference or an image")


def _check_messages(messages: Any, where: str, last: str) -> int:
    """Checks roles and contents of a conversation; returns how many image parts it holds."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRow(f"{where} is empty or no list")
    expected, found = "user", 0
    for index, turn in enumerate(messages):
        role = turn.get("role") if isinstance(turn, Mapping) else None
        place = f"{where}[{index}]"
        if role not in ROLES:
            raise InvalidRow(f"{place} has the role {role!r}; use {', '.join(ROLES)}")
        if role == "system" and index > 0:
            raise InvalidRow(f"{place} is a system turn; only the first may be one")
        if role != "system":
            if role != expected:
                raise InvalidRow(f"{place} is a turn of the {role} where one of the {expected} belongs")
            expected = "assistant" if role == "user" else "user"
        found += _check_parts(turn.get("content"), place, images=role == "user", may_be_empty=role == "assistant")
    if messages[-1]["role"] != last:
        raise InvalidRow(f"{where} ends with a turn of the {messages[-1]['role']}; it must end with the {last}'s")
    return found


def _check_answer(messages: Any, where: str) -> None:
    """Checks an answer of a preference row."""
    if not isinstance(messages, list) or [turn.get("role") for turn in messages] != ["assistant"]:
        raise InvalidRow(f"{where} must be one message of the assistant")
    _check_parts(messages[0].get("content"), where, images=False)


def _check_parts(content: Any, where: str, images: bool, may_be_empty: bool = False) -> int:
    """Checks the parts of one message; returns how many are images."""
    found = _count_parts(content, where, {"text", "image"})
    if found and not images:
        raise InvalidRow(f"{where} holds an image; only turns of the user may")
    if not found and not may_be_empty and not any(part["text"] for part in content):
        raise InvalidRow(f"{where} has neither text nor an image")
    return found


def _check_content(content: Any) -> int:
    """Checks the parts of a pre-training row; returns how many are images."""
    found = _count_parts(content, "content", {"text", "image", "end_of_chunk"})
    if not any(part["type"] == "text" and part["text"] for part in content):
        raise InvalidRow("content has no text to learn from")
    return found


def _count_parts(content: Any, where: str, types: set[str]) -> int:
    """Checks the types of parts; returns how many are images."""
    if not isinstance(content, list):
        raise InvalidRow(f"{where} has a {type(content).__name__} as content; it must be a list of parts")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in types:
            raise InvalidRow(f"{where}, part {index}, is of type {kind!r}; use {', '.join(sorted(types))}")
        if (kind == "text") != isinstance(part.get("text"), str):
            raise InvalidRow(f"{where}, part {index}: a text part holds a string, every other part None")
    return sum(part["type"] == "image" for part in content)
