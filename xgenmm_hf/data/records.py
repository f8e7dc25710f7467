"""One reader for data files: JSON, JSON lines, CSV and TSV, Parquet, WebDataset shards, data sets of the Hub.

A file is read in shards (plain dicts, because `datasets` hashes them), so that ranks and workers can share it. JSON is
read record by record. The builder of `datasets` needs one schema for the whole file (published LLaVA files mix paths
with lists of paths) and stops at the first bad line; here a bad line is only one rejected record.
"""

import csv
import glob
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import one_line
from xgenmm_hf.data.fields import (
    ADDRESS_FIELDS,
    CAPTION_FIELDS,
    IMAGE_FIELDS,
    NOT_UNICODE,
    SURROGATE,
    Record,
    RejectedRecord,
    is_unicode,
    parse_json,
)


Shard = dict[str, Any]
Placed = Iterator[tuple[str, Record | RejectedRecord]]
Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

SUFFIXES = {
    ".json": "json",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".tar": "tar",
}
# Keys that may hold the records of a JSON file that is one object.
LISTS = ("data", "questions", "annotations", "samples")
BATCH_ROWS = 16
LONGEST_CELL = 1 << 30
SPACE = re.compile(r"\s*")
# A member of a WebDataset shard: the sample's name, and what follows the first dot.
MEMBER = re.compile(r"((?:.*/)?[^/.]+)(?:\.([^/]*))?", re.DOTALL)
# In TSV quotation marks mean nothing; in CSV a quotation that its line does not close is an error.
TABLES: dict[str, dict[str, Any]] = {
    "csv": {"strict": True},
    "tsv": {"strict": True, "delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
NAMES_OF_COLUMNS = {name.lower() for name in (*IMAGE_FIELDS, *ADDRESS_FIELDS, *CAPTION_FIELDS)}


class Found(NamedTuple):
    """A record of a file, or why it could not be read; its place is an index, a line, a row, or a sample's name."""

    place: str
    record: Record | RejectedRecord


def find_files(files: Files) -> list[Path]:
    """Lists the files that paths and patterns name, each once."""
    found: dict[Path, None] = {}
    for file in [files] if isinstance(files, (str, os.PathLike)) else files:
        name = os.fspath(file)
        names = [name] if os.path.isfile(name) else sorted(glob.glob(name, recursive=True))
        paths = [Path(one) for one in names if os.path.isfile(one)]
        if not paths:
            raise ValueError(f"There is no data file at {name}: check the path.")
        found.update(dict.fromkeys(paths))
    for path in found:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{path} has the suffix {path.suffix!r}; data files end in {', '.join(SUFFIXES)}.")
    return list(found)


def make_shards(files: Iterable[Path], number: int = 1) -> list[Shard]:
    """Splits files into about `number` shards; a file that cannot be split is one shard."""
    paths = list(files)
    parts = -(-number // max(1, len(paths)))
    return [shard for path in paths for shard in _shards_of(path, parts)]


def read_shard(shard: Shard) -> Iterator[Found]:
    """Reads the records of a shard."""
    if shard["layout"] == "hub":
        from xgenmm_hf.data.hub_sets import read_hub_shard

        yield from map(Found._make, read_hub_shard(shard))
        return
    path = Path(shard["path"])
    with _readable(path):
        yield from map(Found._make, READERS[shard["layout"]](path, shard))


def first_record(shards: Iterable[Shard]) -> Record:
    """Returns the first record of some shards that can be read at all."""
    names, problem = [], ""
    for shard in shards:
        names.append(shard["path"])
        for _, record in read_shard(shard):
            if not isinstance(record, RejectedRecord):
                return record
            problem = problem or f"; the first problem: {record.reason}"
    raise ValueError(f"{', '.join(dict.fromkeys(names))} holds no record that can be read{problem}.")


def _layout_of(path: Path) -> str:
    layout = SUFFIXES[path.suffix.lower()]
    if layout != "json":
        return layout
    with path.open("rb") as file:
        lines = (line for line in file if line.strip(b"\xef\xbb\xbf \t\r\n"))
        first = next(lines, b"").lstrip(b"\xef\xbb\xbf \t")
        # Many .json files are JSON lines; one that is a single object holds its records in a list.
        if first.startswith(b"{"):
            return "lines" if first.rstrip().endswith(b"}") and any(True for _ in lines) else "object"
    return layout


def _shards_of(path: Path, parts: int) -> list[Shard]:
    layout, facts = _layout_of(path), path.stat()
    common = {"path": str(path.absolute()), "layout": layout, "size": facts.st_size, "time": facts.st_mtime_ns}
    if layout == "parquet":
        cuts = _row_group_cuts(path, parts)
    elif layout in ("lines", *TABLES) and parts > 1:
        cuts = _line_cuts(path, parts, facts.st_size)
    else:
        cuts = [(0, -1, 0)]
    return [{**common, "start": start, "stop": stop, "first": first} for start, stop, first in cuts]


def _line_cuts(path: Path, parts: int, size: int) -> list[tuple[int, int, int]]:
    """Returns (first byte, byte after the last, number of the first line) of each shard."""
    cuts, start, first, end = [], 0, 0, 0
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            end += len(text)
            # A shard ends with the line that passes its share of the bytes.
            if end < size and end * parts // size > (end - len(text)) * parts // size:
                cuts.append((start, end, first))
                start, first = end, line
    return [*cuts, (start, size, first)] if start < size else cuts


def _row_group_cuts(path: Path, parts: int) -> list[tuple[int, int, int]]:
    """Returns (first row group, row group after the last, number of the first row) of each shard."""
    import pyarrow.parquet as pq

    with _readable(path):
        facts = pq.ParquetFile(path).metadata
    rows = [0, *accumulate(facts.row_group(group).num_rows for group in range(facts.num_row_groups))]
    parts = max(1, min(parts, facts.num_row_groups))
    bounds = [facts.num_row_groups * part // parts for part in range(parts + 1)]
    return [(start, stop, rows[start]) for start, stop in pairwise(bounds)]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns a library's error about a broken file into a `ValueError` of one sentence."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"The data file {path} cannot be read ({one_line(error)}): get it again.") from error


def _read_json(path: Path, shard: Shard) -> Placed:
    """Reads a JSON array one record at a time."""
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if not text.lstrip().startswith("["):
        raise ValueError(f"The data file {path} holds no list of records.")
    place, index, decoder = text.index("[") + 1, 0, json.JSONDecoder()
    while not text.startswith("]", place := _past_space(text, place)):
        record: Any
        try:
            record, end = decoder.raw_decode(text, place)
        except RecursionError:
            record, end = RejectedRecord("json", "the record is nested too deeply"), _past_value(text, place)
        except json.JSONDecodeError as error:
            raise ValueError(f"The data file {path} is not JSON ({error}): get it again.") from error
        yield str(index), _checked(record, text[place:end])
        place, index = _past_space(text, end), index + 1
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            raise ValueError(f"The data file {path} is not JSON (no comma after record {index - 1}): get it again.")


def _past_space(text: str, place: int) -> int:
    return SPACE.match(text, place).end()  # type: ignore[union-attr]


def _past_value(text: str, place: int) -> int:
    """Returns the end of a JSON value that the parser cannot hold."""
    depth = 0
    for token in re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL).finditer(text, place):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def _read_object(path: Path, shard: Shard) -> Placed:
    """Reads a JSON file that is one object: the list of records in it, or the object as the only record."""
    try:
        value = parse_json(path.read_bytes(), f"the data file {path}")
    except RejectedRecord as problem:
        raise ValueError(f"{problem.reason[0].upper()}{problem.reason[1:]}: restore the file.") from None
    records = next((value[name] for name in LISTS if isinstance(value.get(name), list)), [value])
    yield from ((str(index), _checked(record)) for index, record in enumerate(records))


def _read_lines(path: Path, shard: Shard) -> Placed:
    """Reads one JSON record per line; empty lines are left out."""
    for number, line in _lines(path, shard):
        try:
            if line.strip():
                yield str(number), _checked(parse_json(line, "the line"))
        except RejectedRecord as problem:
            yield str(number), problem


def _lines(path: Path, shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a shard with their numbers, from 1."""
    with path.open("rb") as file:
        file.seek(shard["start"])
        for number, line in enumerate(file, start=shard["first"] + 1):
            yield number, line
            if 0 <= shard["stop"] <= file.tell():
                return


def _read_table(path: Path, shard: Shard) -> Placed:
    """Reads CSV or TSV, one record per line; without a header the columns are named by `name_columns`."""
    form = TABLES[shard["layout"]]
    csv.field_size_limit(LONGEST_CELL)  # a cell may hold an image in base64
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        names, has_header = name_columns(next(csv.reader(file, **form), []))
    for number, line in _lines(path, shard):
        if (number == 1 and has_header) or not line.strip():
            continue
        try:
            values = next(csv.reader([line.decode("utf-8-sig").rstrip("\r\n")], **form))
            if len(values) != len(names):
                raise csv.Error(f"it has {len(values)} columns instead of {len(names)}")
            yield str(number), dict(zip(names, values, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            yield str(number), RejectedRecord("table", f"the line cannot be read ({error})")


def name_columns(first: Sequence[str]) -> tuple[list[str], bool]:
    """Decides whether a table's first line is a header, and names its columns."""
    if any(cell.strip().lower() in NAMES_OF_COLUMNS for cell in first):
        return [cell.strip() for cell in first], True
    if len(first) == 2:
        pathlike = [" " not in cell.strip() and ("/" in cell or "." in cell) for cell in first]
        return (["caption", "image"] if pathlike == [False, True] else ["image", "caption"]), False
    return [str(index) for index in range(len(first))], False


def _read_parquet(path: Path, shard: Shard) -> Placed:
    import pyarrow.parquet as pq

    row = shard["first"]
    # Pages are read as they are needed; pre-buffering would hold whole row groups with their images.
    with pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=range(shard["start"], shard["stop"])):
            for record in _rows_of(batch):
                yield str(row), record
                row += 1


def _rows_of(batch: Any) -> Iterator[Record | RejectedRecord]:
    """Yields the rows of a batch; if one is not UTF-8, reads them one by one."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            yield RejectedRecord("text", f"the row holds bytes that are not UTF-8 ({error.reason})")
            return
        for index in range(len(batch)):
            yield from _rows_of(batch.slice(index, 1))


def _read_tar(path: Path, shard: Shard) -> Placed:
    """Reads WebDataset samples: neighbouring files that share their name up to the first dot."""
    from xgenmm_hf.data.webdataset import sample_record

    with tarfile.open(path, "r|*") as archive:
        found = ((MEMBER.fullmatch(member.name), member) for member in archive if member.isfile())
        members: Iterator[Any] = ((*match.groups(""), archive.extractfile(member)) for match, member in found if match)
        for key, sample in groupby(members, itemgetter(0)):
            files = {extension.lower(): content.read() for _, extension, content in sample if content}
            if not is_unicode(key):
                problem = RejectedRecord("text", f"the sample's name {NOT_UNICODE}")
                yield key.encode(errors="replace").decode(), problem
                continue
            try:
                yield key, sample_record(key, files)
            except RejectedRecord as problem:
                yield key, problem


def _checked(record: Any, text: str = "") -> Record | RejectedRecord:
    """Returns a record that is a mapping of valid Unicode, or else the reason to reject it."""
    if not isinstance(record, (dict, RejectedRecord)):
        return RejectedRecord("fields", f"the record is a {type(record).__name__}; it must be a mapping")
    if isinstance(record, dict) and SURROGATE.search(text) and not is_unicode(record):
        return RejectedRecord("text", f"the record {NOT_UNICODE}")
    return record


READERS = {
    "json": _read_json,
    "object": _read_object,
    "lines": _read_lines,
    "csv": _read_table,
    "tsv": _read_table,
    "parquet": _read_parquet,
    "tar": _read_tar,
}
