"""Fields and problems of records, shared by everything that reads data files."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


Record = dict[str, Any]

IMAGE_FIELDS = ("image", "images", "image_path", "img_path", "path", "filepath", "file_name", "filename")
ADDRESS_FIELDS = ("url", "uid", "key")
CAPTION_FIELDS = ("caption", "text", "txt", "alt_text", "TEXT", "re_caption")
NOT_UNICODE = "holds bytes that are not UTF-8, or half of a surrogate pair"
# Sources of half a surrogate pair in a JSON value: an escape, or bytes that were decoded as surrogates.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class RecordProblem(Exception):
    """A record that gives no row; problems are counted by their short `kind`."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class RejectedRecord(RecordProblem):
    """A malformed record: it counts towards the share of rejected records that stops loading."""


class SkippedRecord(RecordProblem):
    """A well-formed record that the recipe leaves out, such as a tie between two answers."""


def first_field(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Returns the first of `names` that a record has a value for."""
    return next((name for name in names if record.get(name) is not None), None)


def text_of(record: Mapping[str, Any], name: str) -> str:
    """Returns a field that must be a non-empty string."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RejectedRecord("fields", f"{name} is {value!r:.60}; it must be a non-empty string")
    return value


def list_of(record: Mapping[str, Any], name: str) -> list:
    """Returns a field that must be a list; a list written as JSON counts as one."""
    value = record.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value, name)
    if not isinstance(value, list):
        raise RejectedRecord("fields", f"{name} is a {type(value).__name__}; it must be a list")
    return value


def mappings_of(value: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """Yields mappings from a list of mappings, or from a mapping of lists as `datasets` stores those."""
    if isinstance(value, Mapping):
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        if len(columns) != len(value) or len({len(column) for column in columns.values()}) > 1:
            raise RejectedRecord("fields", f"{name} is a mapping whose values are not lists of one length")
        value = [dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise RejectedRecord("fields", f"{name} must be a list of mappings")
    yield from value


def parse_json(text: str | bytes, name: str) -> Any:
    """Returns the value of a JSON text; a malformed one raises a `RejectedRecord` that gives its `name`."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(text)
    except RecursionError:
        raise RejectedRecord("json", f"{name} is nested too deeply") from None
    except ValueError as error:
        raise RejectedRecord("json", f"{name} is not JSON ({error})") from None
    if SURROGATE.search(text) and not is_unicode(value):
        raise RejectedRecord("text", f"{name} {NOT_UNICODE}")
    return value


def is_unicode(value: Any) -> bool:
    """Tells whether every text in a JSON value can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
