"""The rows of a data set's files, and fields of rows; what is malformed becomes a sentence about its row."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.data.fields import RejectedRecord
from xgenmm_hf.data.records import make_shards, read_shard


SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")


class BadRow(ValueError):
    """A row that cannot be evaluated; its message says why."""


class Row(NamedTuple):
    """A row with its file, its place there, and its fields (or what stands where a row belongs)."""

    source: str
    where: str
    fields: Any


def read_document(path: Path) -> dict[str, Any] | None:
    """Returns what a JSON file that is one object holds; None for files of rows."""
    (shard, *_) = make_shards([check_file(path)]) or [{"layout": ""}]
    return read_json(path) if shard["layout"] == "object" else None


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file; one that cannot be read has a `BadRow` in the place of its fields."""
    for shard in make_shards([check_file(path)]):
        for found in read_shard(shard):
            record = found.record
            where = f"line {found.place}" if shard["layout"] == "lines" else f"row {int(found.place) + 1}"
            yield Row(path.name, where, BadRow(record.reason) if isinstance(record, RejectedRecord) else record)


def numbered(path: Path, rows: Any, word: str = "row") -> Iterator[Row]:
    """Yields the rows of a list with their numbers from 1."""
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__} where a list of rows belongs.")
    for number, fields in enumerate(rows, start=1):
        yield Row(path.name, f"{word} {number}", fields)


def check_file(path: Path) -> Path:
    """Returns a file that is there and of a kind that is read, or raises what is wrong with it."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}; check the path.")
    suffix = path.suffix.lower()
    if suffix == ".tsv":
        raise ValueError(
            f"{path} is a table as VLMEvalKit reads it: run xgenmm eval --harness vlmevalkit --data {path.stem}."
        )
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} is of an unknown kind; give {', '.join(SUFFIXES)}.")
    return path


def first_of(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Returns the first of several fields that is there and not None."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def text_of(fields: Mapping[str, Any], *names: str, optional: bool = False) -> str:
    """Returns a field as text; numbers are written out."""
    value = first_of(fields, names)
    if value is None and optional:
        return ""
    text = plain_text(value)
    if text is None:
        raise BadRow(f"{names[0]} is {'missing' if value is None else f'a {type(value).__name__}'}; it must be a text")
    if not text and not optional:
        raise BadRow(f"{names[0]} is empty")
    return text


def texts_of(fields: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """Returns the answers or captions of a field: a text, a list of texts, or a list of objects with "answer"."""
    value = first_of(fields, names)
    if value is None:
        raise BadRow(f"{names[0]} is missing")
    texts = []
    for one in value if isinstance(value, list | tuple) else [value]:
        text = plain_text(first_of(one, ("answer", "caption", "raw")) if isinstance(one, Mapping) else one)
        if text is None:
            raise BadRow(f"{names[0]} holds {one!r:.60}; it must hold texts")
        texts.append(text)
    if not any(texts):
        raise BadRow(f"{names[0]} is empty")
    return tuple(texts)


def plain_text(value: Any) -> str | None:
    """Returns a text or a number as text without spaces around it; None for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
