"""Reading data files row by row, and fields of rows; what is malformed becomes a sentence about its row.

JSON (a list, or an object with a list under "data"), JSON Lines (by whatever name), parquet, and VLMEvalKit's TSV.
"""

import ast
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


ROW_LISTS = ("data", "questions", "annotations")
# Fields hold whole images in base64.
_LONGEST_FIELD = 1 << 30


class BadRow(ValueError):
    """A row that cannot be evaluated; its message says why."""


@dataclass(frozen=True)
class Record:
    """A row with its place.

    Args:
        source: Name of its file.
        where: Its place in the file.
        row: Its fields, or what stands where a row belongs.
    """

    source: str
    where: str
    row: Any


def read_json(path: Path) -> Any:
    """Reads a JSON file; one of JSON Lines gives a list of records.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        ValueError: If it is neither.
    """
    text = _read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be a data file.") from None
    except json.JSONDecodeError as error:
        # More than one value: JSON Lines, the form of POPE's .json files.
        if error.msg == "Extra data" and text[: error.pos].count("\n") <= 1:
            return list(_json_lines(path, text))
        raise ValueError(f"{path} is not valid JSON ({error}); restore the file.") from None


def read_records(path: Path) -> Iterator[Record]:
    """Yields the rows of a data file.

    Args:
        path: A .json, .jsonl, .parquet, .tsv or .csv file.

    Yields:
        Its records; a line that cannot be read gives one whose row is a `BadRow`.

    Raises:
        ValueError: If the file is missing, of another kind, or damaged as a whole.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}; check the path.")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path, _read_text(path))
    elif suffix == ".json":
        yield from _records_of(path, read_json(path))
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix in (".tsv", ".csv"):
        yield from _table_rows(path, "\t" if suffix == ".tsv" else ",")
    else:
        raise ValueError(f"{path} is of an unknown kind; give .json, .jsonl, .parquet, .tsv or .csv.")


def first_of(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Returns the first of several fields that is there and not None."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def text_of(row: Mapping[str, Any], *names: str, optional: bool = False) -> str:
    """Returns a field as text; numbers are written out.

    Args:
        row: The row.
        *names: Names of the field, of which the first that is there counts.
        optional: Whether it may be missing or empty.

    Returns:
        Its text without spaces around it.

    Raises:
        BadRow: If it is missing, empty or no text.
    """
    value = first_of(row, names)
    if value is None and optional:
        return ""
    text = plain_text(value)
    if text is None:
        raise BadRow(f"{names[0]} is {'missing' if value is None else f'a {type(value).__name__}'}; it must be a text")
    if not text and not optional:
        raise BadRow(f"{names[0]} is empty")
    return text


def texts_of(row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """Returns the answers or captions of a field: a text, a list of texts, or a list of objects with "answer".

    Args:
        row: The row.
        *names: Names of the field, of which the first that is there counts.

    Returns:
        The texts.

    Raises:
        BadRow: If there are none, or one is no text.
    """
    value = first_of(row, names)
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


def list_literal(value: Any) -> Any:
    """Returns the list that a text spells out, as tables write lists into a field; anything else as it is."""
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        try:
            parsed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
        return parsed if isinstance(parsed, list) else value
    return value


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"There is no file {path}; check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None


def _records_of(path: Path, document: Any) -> Iterator[Record]:
    if isinstance(document, Mapping):
        document = next((document[name] for name in ROW_LISTS if isinstance(document.get(name), list)), None)
    if not isinstance(document, list):
        raise ValueError(f"{path} holds no rows; it must be a list, or an object with a list under {ROW_LISTS[0]!r}.")
    for number, row in enumerate(document, start=1):
        yield row if isinstance(row, Record) else Record(path.name, f"row {number}", row)


def _json_lines(path: Path, text: str) -> Iterator[Record]:
    # Not splitlines: it also splits at signs that may stand inside a JSON text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = BadRow(f"the line is not valid JSON ({error})")
            yield Record(path.name, f"line {number}", row)


def _parquet_rows(path: Path) -> Iterator[Record]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError("Parquet files need pyarrow: pip install xgenmm-hf[eval].") from None

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(path.name, f"row {number}", row)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no readable parquet file ({error}).") from None


def _table_rows(path: Path, delimiter: str) -> Iterator[Record]:
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter=delimiter))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable table ({error}).") from None
    finally:
        csv.field_size_limit(limit)
    header = rows[0] if rows else []
    for number, values in enumerate(rows[1:], start=2):
        row: Any = {name: value or None for name, value in zip(header, values, strict=False)}
        if len(values) != len(header):
            row = BadRow(f"the row has {len(values)} fields where the header has {len(header)}")
        if values:
            yield Record(path.name, f"row {number}", row)
