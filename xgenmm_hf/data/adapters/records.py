"""Reading the records of local files: JSON, JSON lines, CSV and TSV, Parquet, WebDataset shards.

A file is read in shards, so that ranks and workers can share it; a shard is a plain dict, as `datasets` hashes it.
Files with lines are cut at line breaks, Parquet files at row groups; the others are one shard each.
"""

import csv
import glob
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.data.adapters.base import Record, RejectedRecord
from xgenmm_hf.data.adapters.webdataset import sample_record


Shard = dict[str, Any]

SUFFIXES = {
    ".json": "json",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".tar": "tar",
}
SCAN_BYTES = 1 << 20
BATCH_ROWS = 64


class Comma(csv.excel):
    """CSV; a quotation that its line does not close is an error."""

    strict = True


class Tab(csv.excel_tab):
    """TSV: quotation marks mean nothing."""

    quoting = csv.QUOTE_NONE
    strict = True


DIALECTS = {"csv": Comma, "tsv": Tab}


class Found(NamedTuple):
    """A record, or why it could not be read.

    Args:
        position: Where it stands in its file: a line, a row, a sample's name.
        record: Its fields, or the problem.
    """

    position: str
    record: Record | RejectedRecord


def find_files(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Lists the files that paths and patterns name, each once.

    Args:
        files: A path, a pattern with `*`, or several of them.

    Returns:
        Existing files; those of a pattern are sorted.

    Raises:
        ValueError: If a path does not exist, a pattern names nothing, or a file's suffix is not known.
    """
    several = [files] if isinstance(files, (str, os.PathLike)) else files
    found: dict[Path, None] = {}
    for item in several:
        name = os.fspath(item)
        paths = [Path(name)] if Path(name).is_file() else sorted(map(Path, glob.glob(name, recursive=True)))
        if not any(path.is_file() for path in paths):
            raise ValueError(f"There is no data file at {name}: check the path.")
        found.update(dict.fromkeys(path for path in paths if path.is_file()))
    for path in found:
        layout_of(path)
    return list(found)


def layout_of(path: Path) -> str:
    """Returns how a file is laid out: "json", "lines", "csv", "tsv", "parquet" or "tar".

    Raises:
        ValueError: If its suffix says nothing known.
    """
    layout = SUFFIXES.get(path.suffix.lower())
    if layout is None:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; data files end in {', '.join(SUFFIXES)}.")
    if layout == "json":
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(SCAN_BYTES).lstrip()
        # Many .json files are JSON lines.
        return "lines" if start.startswith("{") else "json"
    return layout


def make_shards(files: Iterable[Path], number: int = 1) -> list[Shard]:
    """Cuts files into shards.

    Args:
        files: Data files.
        number: Shards wanted over all; files that cannot be cut may make it fewer, many files more.

    Returns:
        Shards in reading order. Size and time of a file are in its shards, as a cache's key needs them.
    """
    paths = list(files)
    parts = -(-number // max(1, len(paths)))
    return [shard for path in paths for shard in _shards_of(path, parts)]


def _shards_of(path: Path, parts: int) -> list[Shard]:
    """Cuts one file into at most so many shards."""
    layout, facts = layout_of(path), path.stat()
    common = {"path": str(path.absolute()), "layout": layout, "size": facts.st_size, "time": facts.st_mtime_ns}
    if layout == "parquet":
        cuts = _row_group_cuts(path, parts)
    elif layout in ("lines", "csv", "tsv") and parts > 1:
        cuts = _line_cuts(path, parts)
    else:
        cuts = [(0, -1, 0)]
    return [{**common, "start": start, "stop": stop, "first": first} for start, stop, first in cuts]


def _line_cuts(path: Path, parts: int) -> list[tuple[int, int, int]]:
    """Returns (first byte, byte after the last, number of the first line) of each shard."""
    size = path.stat().st_size
    bounds = sorted({size * part // parts for part in range(1, parts)} - {0})
    cuts, start, first, end = [], 0, 0, 0
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            end += len(text)
            if bounds and end >= bounds[0]:
                cuts.append((start, end, first))
                start, first = end, line
                bounds = [bound for bound in bounds if bound > end]
    return [*cuts, (start, size, first)] if start < size else cuts


def _row_group_cuts(path: Path, parts: int) -> list[tuple[int, int, int]]:
    """Returns (first row group, row group after the last, number of the first row) of each shard."""
    import pyarrow.parquet as pq

    with _readable(path):
        facts = pq.ParquetFile(path).metadata
    rows = [0]
    for group in range(facts.num_row_groups):
        rows.append(rows[-1] + facts.row_group(group).num_rows)
    parts = max(1, min(parts, facts.num_row_groups))
    bounds = [facts.num_row_groups * part // parts for part in range(parts + 1)]
    return [(start, stop, rows[start]) for start, stop in zip(bounds, bounds[1:], strict=False)]


def read_shard(shard: Shard) -> Iterator[Found]:
    """Reads the records of a shard.

    Args:
        shard: One of `make_shards`.

    Yields:
        Records in order, and problems of single records.

    Raises:
        ValueError: If the file as a whole cannot be read.
    """
    path = Path(shard["path"])
    readers = {"json": _read_json, "lines": _read_lines, "parquet": _read_parquet, "tar": _read_tar}
    with _readable(path):
        yield from readers.get(shard["layout"], _read_table)(path, shard)


def first_record(paths: Iterable[Path]) -> Record:
    """Reads no further than the first record that can be read at all.

    Args:
        paths: Data files.

    Returns:
        The record.

    Raises:
        ValueError: If there is none.
    """
    problem = ""
    names = []
    for path in paths:
        names.append(str(path))
        for shard in make_shards([path]):
            record = _peek(path) if shard["layout"] == "json" else None
            if record is not None:
                return record
            for found in read_shard(shard):
                if not isinstance(found.record, RejectedRecord):
                    return found.record
                problem = problem or f"; the first problem: {found.record.reason}"
    raise ValueError(f"{', '.join(names)} holds no record that can be read{problem}.")


def _peek(path: Path) -> Record | None:
    """Returns the first record of a JSON array without reading all of a large file; None: read it to see."""
    size, decoder = SCAN_BYTES, json.JSONDecoder()
    while True:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(size)
        try:
            record = decoder.raw_decode(text.lstrip().removeprefix("[").lstrip())[0]
        except json.JSONDecodeError:
            if len(text) < size:
                return None
            size *= 8
            continue
        return record if isinstance(record, dict) and text.lstrip().startswith("[") else None


class _readable:
    """Tells what a library says of a broken file as one sentence."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        if isinstance(error, (pyarrow.ArrowException, tarfile.TarError, OSError, EOFError, UnicodeDecodeError)):
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"The data file {self.path} cannot be read ({reason}): get it again.") from error


def _read_json(path: Path, shard: Shard) -> Iterator[Found]:
    """Reads a JSON array of records."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            records = json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"The data file {path} is not JSON ({error}).") from error
    if not isinstance(records, list):
        raise ValueError(f"The data file {path} holds a {type(records).__name__}; it must be a list of records.")
    for index, record in enumerate(records):
        yield Found(str(index), _checked(record))


def _read_lines(path: Path, shard: Shard) -> Iterator[Found]:
    """Reads one JSON record a line; empty lines are left out."""
    for number, line in _lines(path, shard):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            yield Found(str(number), RejectedRecord("json", f"the line is not JSON ({error})"))
            continue
        yield Found(str(number), _checked(record))


def _lines(path: Path, shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a shard with their numbers, from 1."""
    with path.open("rb") as file:
        file.seek(shard["start"])
        for number, line in enumerate(file, start=shard["first"] + 1):
            yield number, line
            if 0 <= shard["stop"] <= file.tell():
                return


def _read_table(path: Path, shard: Shard) -> Iterator[Found]:
    """Reads CSV or TSV, one record a line; without a header the columns are named by `name_columns`."""
    dialect = DIALECTS[shard["layout"]]
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next(csv.reader(file, dialect), [])
    names, has_header = name_columns(first)
    for number, line in _lines(path, shard):
        if (number == 1 and has_header) or not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
            values = next(csv.reader([text], dialect))
        except (UnicodeDecodeError, csv.Error) as error:
            yield Found(str(number), RejectedRecord("table", f"the line cannot be read ({error})"))
            continue
        if len(values) != len(names):
            problem = RejectedRecord("table", f"the line has {len(values)} columns instead of {len(names)}")
            yield Found(str(number), problem)
            continue
        yield Found(str(number), dict(zip(names, values, strict=True)))


def name_columns(first: Sequence[str]) -> tuple[list[str], bool]:
    """Decides whether a table's first line is a header, and names its columns.

    Args:
        first: The cells of the first line.

    Returns:
        The names, and whether the line is a header. Two columns without a header are `image` and `caption`, the
        image being the one that looks like a path or an address (CC3M has it second, CC12M first); more columns are
        named by their number.
    """
    from xgenmm_hf.data.adapters.captions import CAPTION_FIELDS, IMAGE_FIELDS

    known = {name.lower() for name in (*IMAGE_FIELDS, *CAPTION_FIELDS)}
    if any(cell.strip().lower() in known for cell in first):
        return [cell.strip() for cell in first], True
    if len(first) == 2:
        pathlike = [" " not in cell.strip() and ("/" in cell or "." in cell) for cell in first]
        return (["caption", "image"] if pathlike == [False, True] else ["image", "caption"]), False
    return [str(index) for index in range(len(first))], False


def _read_parquet(path: Path, shard: Shard) -> Iterator[Found]:
    """Reads the row groups of a shard."""
    import pyarrow.parquet as pq

    row = shard["first"]
    with pq.ParquetFile(path) as file:
        groups = range(shard["start"], shard["stop"])
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups):
            for record in batch.to_pylist():
                yield Found(str(row), record)
                row += 1


def _read_tar(path: Path, shard: Shard) -> Iterator[Found]:
    """Reads WebDataset samples: neighbouring files that share their name up to the first dot."""
    with tarfile.open(path, "r|*") as archive:
        sample: Record = {}
        for member in archive:
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            if not member.isfile() or not stem:
                continue
            key = f"{folder}/{stem}" if folder else stem
            if sample and sample["__key__"] != key:
                yield _sample(sample)
                sample = {}
            file = archive.extractfile(member)
            sample["__key__"] = key
            sample[extension.lower()] = b"" if file is None else file.read()
        if sample:
            yield _sample(sample)


def _sample(sample: Record) -> Found:
    """Turns a sample into the record of the format it holds."""
    try:
        return Found(sample["__key__"], sample_record(sample))
    except RejectedRecord as problem:
        return Found(sample["__key__"], problem)


def _checked(record: Any) -> Record | RejectedRecord:
    """Returns a record if it is a mapping."""
    if isinstance(record, dict):
        return record
    return RejectedRecord("fields", f"the record is a {type(record).__name__}; it must be a mapping")
