"""What a data adapter is: a function from one record of a public format to training rows."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xgenmm_hf.data.image_refs import PathRefused, Roots, image_ref
from xgenmm_hf.data.rows import ImageRef, Row


Record = dict[str, Any]


class RecordProblem(Exception):
    """A record that gives no row.

    Args:
        kind: Short name that equal problems share, for counting.
        reason: What exactly is wrong with this record.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class RejectedRecord(RecordProblem):
    """A malformed record: it counts towards the share of rejected records that stops loading."""


class SkippedRecord(RecordProblem):
    """A well-formed record that the recipe leaves out, such as a tie between two answers."""


@dataclass(frozen=True)
class Context:
    """Where a record comes from.

    Args:
        source: Name of the data set.
        roots: Resolves the paths of images.
        options: Options of the adapter.
    """

    source: str
    roots: Roots = field(default_factory=Roots)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """One public format.

    Args:
        name: Name of the format.
        convert: Called with (record, id, context), the id unique within the source; yields rows, or raises a
            `RecordProblem`.
        matches: Tells from a record whether it is of this format.
        kind: Kind of the rows, or how to tell it from a record.
        options: Names of the options it knows.
    """

    name: str
    convert: Callable[[Record, str, Context], Iterable[Row]]
    matches: Callable[[Record], bool]
    kind: str | Callable[[Record], str]
    options: frozenset[str] = frozenset()

    def kind_of(self, record: Record) -> str:
        """Returns the kind of the rows that a record becomes."""
        return self.kind if isinstance(self.kind, str) else self.kind(record)


def image_refs(value: Any, context: Context) -> list[ImageRef]:
    """Reads the images of a record.

    Args:
        value: None, a path, encoded bytes, a `{"bytes", "path"}` mapping, or a list of those.
        context: Resolves paths.

    Returns:
        References in order.

    Raises:
        RejectedRecord: If one of them is none of these, or its path is refused.
    """
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [ref for item in value for ref in _one_image(item, context)]
    return _one_image(value, context)


def _one_image(value: Any, context: Context) -> list[ImageRef]:
    """Reads one image of a record, as a list of one."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if data is not None:
            return [image_ref(path, bytes(data))]
        value = path
    if isinstance(value, (bytes, bytearray)):
        return [image_ref(None, bytes(value))]
    if not isinstance(value, str) or not value:
        raise RejectedRecord("image", f"an image is given as {value!r:.60}; it must be a path or encoded bytes")
    try:
        return [image_ref(context.roots.resolve(value))]
    except PathRefused as error:
        raise RejectedRecord("path", str(error)) from None


def text_of(record: Mapping[str, Any], name: str) -> str:
    """Returns a field that must be a non-empty string.

    Raises:
        RejectedRecord: If it is missing, empty or no string.
    """
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RejectedRecord("fields", f"{name} is {value!r:.60}; it must be a non-empty string")
    return value


def list_of(record: Mapping[str, Any], name: str) -> list:
    """Returns a field that must be a list; a list written as JSON counts as one.

    Raises:
        RejectedRecord: If it is missing or no list.
    """
    value = record.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value, name)
    if not isinstance(value, list):
        raise RejectedRecord("fields", f"{name} is a {type(value).__name__}; it must be a list")
    return value


def parse_json(text: str | bytes, name: str) -> Any:
    """Parses JSON inside a record.

    Raises:
        RejectedRecord: If it is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise RejectedRecord("json", f"{name} is not JSON ({error})") from None


def first_field(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Returns the first of some names that a record has a value for."""
    return next((name for name in names if record.get(name) is not None), None)


def as_records(value: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """Yields mappings from a list of mappings, or from a mapping of lists as `datasets` stores those.

    Raises:
        RejectedRecord: If it is neither.
    """
    if isinstance(value, Mapping):
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        if len(columns) != len(value) or len({len(column) for column in columns.values()}) > 1:
            raise RejectedRecord("fields", f"{name} is a mapping whose values are not lists of one length")
        value = [dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise RejectedRecord("fields", f"{name} must be a list of mappings")
    yield from value
