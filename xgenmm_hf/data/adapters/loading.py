"""Local files of any public format -> a `datasets` data set of training rows."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf import __version__
from xgenmm_hf.data.adapters.base import Adapter, Context, RecordProblem, RejectedRecord, first_field
from xgenmm_hf.data.adapters.records import Found, Shard, find_files, first_record, make_shards, read_shard
from xgenmm_hf.data.adapters.registry import AUTO, adapter_of, check_options, detect
from xgenmm_hf.data.adapters.report import SourceReport, Tally, sum_counts
from xgenmm_hf.data.image_refs import Roots
from xgenmm_hf.data.rows import InvalidRow, Row, features_of, validate_row


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

CACHE_FORM = 2  # raise it when the same files give other rows than before
MAX_REJECTED = 0.01
STREAM_SHARDS = 16
REPORT = "report.json"


@dataclass
class LoadedRows:
    """Rows of one source.

    Args:
        dataset: A `datasets.Dataset`, or while streaming an `IterableDataset`.
        report: What became of the source's records.
    """

    dataset: "Dataset | IterableDataset"
    report: SourceReport


def load_rows(
    format: str,
    files: Files,
    *,
    name: str | None = None,
    roots: Mapping[str, str | os.PathLike[str]] | None = None,
    streaming: bool = False,
    options: Mapping[str, Any] | None = None,
    max_rejected: float = MAX_REJECTED,
    cache_dir: str | os.PathLike[str] | None = None,
    num_shards: int = STREAM_SHARDS,
) -> LoadedRows:
    """Reads files of one format into training rows; images stay references.

    A malformed record is left out, counted, and listed with its place and the reason; it is never replaced.

    Args:
        format: Name of the format (see `registry.ADAPTERS`), or "auto" to tell it from the first record.
        files: A path, a pattern with `*`, or several.
        name: Name of the source; default: the first file's.
        roots: First components of images' paths -> folders, "" for all others; default: all relative paths are
            beside their data file.
        streaming: Whether to read while iterating instead of building a cache first.
        options: Options of the format.
        max_rejected: Largest share of malformed records; while streaming it is judged from 100 records on.
        cache_dir: Where caches go; default: `xgenmm` in the cache folder of `datasets`.
        num_shards: Shards wanted while streaming, over all files; ranks and workers share them.

    Returns:
        The rows and the report.

    Raises:
        ValueError: If a file cannot be read, the format is not known, too many records are malformed, or no row is
            left.
    """
    paths = find_files(files)
    first = first_record(paths)
    adapter = detect(first, str(paths[0])) if format == AUTO else adapter_of(format)
    options = dict(options or {})
    check_options(adapter, options)
    source = name or paths[0].stem
    kind = adapter.kind_of(first)
    report = SourceReport(source, adapter.name, kind, [str(path) for path in paths])
    recipe = {
        "source": source,
        "format": adapter.name,
        "kind": kind,
        "options": options,
        "roots": None if roots is None else {prefix: os.path.abspath(folder) for prefix, folder in roots.items()},
        "base": os.path.commonpath([path.absolute().parent for path in paths]),
        "several": len(paths) > 1,
    }
    if streaming:
        return LoadedRows(_stream(make_shards(paths, num_shards), recipe, max_rejected), report)
    loaded = _build(make_shards(paths), recipe, report, cache_dir)
    loaded.report.check(max_rejected)
    return loaded


def _stream(shards: list[Shard], recipe: dict[str, Any], max_rejected: float) -> "IterableDataset":
    """Makes a data set that reads while it is iterated."""
    from datasets import IterableDataset

    return IterableDataset.from_generator(
        generate,
        features=features_of(recipe["kind"]),
        gen_kwargs={"shards": shards, "recipe": {**recipe, "log": None, "max_rejected": max_rejected}},
    )


def _build(
    shards: list[Shard], recipe: dict[str, Any], report: SourceReport, cache_dir: str | os.PathLike[str] | None
) -> LoadedRows:
    """Makes a data set in memory-mapped files, or finds them again from an earlier call."""
    import datasets
    from filelock import FileLock

    parent = Path(cache_dir) if cache_dir is not None else Path(datasets.config.HF_DATASETS_CACHE) / "xgenmm"
    versions = [CACHE_FORM, __version__, datasets.__version__]
    key = hashlib.sha256(json.dumps([versions, shards, recipe], sort_keys=True).encode()).hexdigest()[:16]
    folder = (parent / f"{report.source.replace('/', '-')}-{key}").absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        complete = (folder / REPORT).is_file()
        if not complete:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        dataset = _from_generator(shards, {**recipe, "log": str(folder), "max_rejected": 1.0}, folder)
        if complete:
            report = SourceReport.load(folder / REPORT)
        else:
            sum_counts(folder, report)
        if dataset is None:
            report.check(max_rejected=1.0)
            raise ValueError(f"{report.source} gave rows that datasets did not keep: delete {folder} and try again.")
        report.save(folder / REPORT)
    return LoadedRows(dataset, report)


def _from_generator(shards: list[Shard], recipe: dict[str, Any], folder: Path) -> "Dataset | None":
    """Runs the generator through `datasets`, and says what failed in our own words; None: there is no row."""
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return Dataset.from_generator(
            generate,
            features=features_of(recipe["kind"]),
            cache_dir=str(folder),
            gen_kwargs={"shards": shards, "recipe": recipe},
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    except ValueError:
        # What the generator raises comes wrapped; this one the library raises itself where nothing was generated.
        return None


def generate(shards: list[Shard], recipe: dict[str, Any]) -> Iterator[Row]:
    """Yields the rows of some shards; `datasets` calls this with a part of them in each process.

    Args:
        shards: Shards to read.
        recipe: How: `source`, `format`, `kind`, `options`, `roots`, `base` (folder that file names are relative to),
            `several` (whether there are several files), `log` (folder for problems, or None), `max_rejected`.

    Yields:
        Valid rows.

    Raises:
        ValueError: If a file cannot be read, or while streaming too many records are malformed.
    """
    adapter = adapter_of(recipe["format"])
    tally = Tally(recipe["source"], recipe["log"], recipe["max_rejected"])
    for shard in shards:
        beside = os.path.dirname(shard["path"]) if recipe["roots"] is None else None
        context = Context(recipe["source"], Roots(recipe["roots"], beside), recipe["options"])
        file = os.path.relpath(shard["path"], recipe["base"])
        for found in read_shard(shard):
            tally.records += 1
            try:
                rows = _convert(adapter, found, file if recipe["several"] else "", context, recipe["kind"])
            except RecordProblem as problem:
                tally.add(problem, file, row_id(found, ""))
                continue
            tally.rows += len(rows)
            yield from rows
    tally.close()


def _convert(adapter: Adapter, found: Found, file: str, context: Context, kind: str) -> list[Row]:
    """Turns a record into checked rows.

    Raises:
        RecordProblem: If there are none.
    """
    if isinstance(found.record, RecordProblem):
        raise found.record
    rows = list(adapter.convert(found.record, row_id(found, file), context))
    for row in rows:
        try:
            own = validate_row(row)
        except InvalidRow as error:
            raise RejectedRecord("schema", str(error)) from None
        if own != kind:
            raise RejectedRecord("mixed kinds", f"a row of kind {own} among rows of kind {kind}")
    return rows


def row_id(found: Found, file: str) -> str:
    """Returns an id that is unique within a source: the record's own, and where it stands.

    Args:
        found: The record.
        file: Name of its file, empty if the source has only one.

    Returns:
        `ID@POSITION`, `ID@FILE:POSITION`, or without an own id the place alone.
    """
    place = f"{file}:{found.position}" if file else found.position
    if isinstance(found.record, RejectedRecord):
        return place
    field = first_field(found.record, ("id", "uid"))
    own = "" if field is None else str(found.record[field])
    return place if own in ("", found.position) else f"{own}@{place}"
