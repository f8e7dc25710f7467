"""Files of any public format, or a data set of the Hub -> a `datasets` data set of training rows."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xgenmm_hf import __version__
from xgenmm_hf.conversion.files import read_json, write_json
from xgenmm_hf.data.adapters import AUTO, adapter_of, check_options, detect
from xgenmm_hf.data.adapters.base import Adapter, Context
from xgenmm_hf.data.addresses import AddressTable, index_addresses
from xgenmm_hf.data.fields import RecordProblem, RejectedRecord, first_field
from xgenmm_hf.data.hub_sets import HubSet, hub_shards
from xgenmm_hf.data.image_refs import Roots
from xgenmm_hf.data.records import Files, Found, Shard, find_files, first_record, make_shards, read_shard
from xgenmm_hf.data.report import PROBLEMS, SourceReport, Tally
from xgenmm_hf.data.rows import InvalidRow, Row, features_of, validate_row


CACHE_FORM = 4  # raise it when the same files give other rows than before
MAX_REJECTED = 0.01
STREAM_SHARDS = 16
REPORT = "report.json"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class LoadedRows:
    """Rows of one source, a `datasets.Dataset` or while streaming an `IterableDataset`, and their report."""

    dataset: Any
    report: SourceReport


def load_rows(
    format: str,
    files: Files | HubSet,
    *,
    name: str | None = None,
    roots: Mapping[str, str | os.PathLike[str]] | None = None,
    images: Sequence[str] = (),
    streaming: bool = False,
    options: Mapping[str, Any] | None = None,
    max_rejected: float = MAX_REJECTED,
    cache_dir: str | os.PathLike[str] | None = None,
    num_shards: int = STREAM_SHARDS,
) -> LoadedRows:
    """Reads files or a data set of the Hub into training rows; images stay references.

    A malformed record is dropped, counted, and listed with its place and the reason; it is never replaced.

    Args:
        format: Name of the format (see `adapters.ADAPTERS`), or "auto" to tell it from the first record.
        files: A path, a pattern with `*`, or several; or a `HubSet`.
        name: Name of the source; default: the first file's.
        roots: First components of images' paths -> folders or archives, "" for all others; default: relative paths
            start from the folder of their data file.
        images: Folders that img2dataset wrote, or tables with `url` (`uid`, `key`) and `path`, to find images that
            the data name by address.
        streaming: Whether to read while iterating instead of building a cache first.
        options: Options of the format.
        max_rejected: Largest share of malformed records; while streaming it is checked from 100 records on.
        cache_dir: Where caches go; default: `xgenmm` in the cache folder of `datasets`.
        num_shards: Number of shards while streaming, over all files; ranks and workers share them.

    Returns:
        The rows and the report.

    Raises:
        ValueError: If a file cannot be read, the format is not known, too many records are malformed, no row is
            left, or there is no space for the cache.
    """
    import datasets
    from datasets import IterableDataset

    cache = Path(cache_dir) if cache_dir is not None else Path(datasets.config.HF_DATASETS_CACHE) / "xgenmm"
    if isinstance(files, HubSet):
        shards, names, base = hub_shards(files, streaming, num_shards), [files.name], None
        default = files.name
    else:
        paths = find_files(files)
        shards, names = make_shards(paths, num_shards if streaming else 1), [str(path) for path in paths]
        base, default = os.path.commonpath([path.absolute().parent for path in paths]), paths[0].stem
    first = first_record(shards)
    adapter = detect(first, names[0]) if format == AUTO else adapter_of(format)
    options = dict(options or {})
    check_options(adapter, options)
    recipe: dict[str, Any] = {
        "source": name or default,
        "format": adapter.name,
        "kind": adapter.kind_of(first),
        "options": options,
        "roots": None if roots is None else {prefix: os.path.abspath(folder) for prefix, folder in roots.items()},
        "images": index_addresses(images, cache) if images else None,
        "base": base,
        "several": len(names) > 1,
    }
    report = SourceReport(recipe["source"], adapter.name, recipe["kind"], names)
    if streaming:
        arguments = {"shards": shards, "recipe": {**recipe, "max_rejected": max_rejected}}
        features = features_of(recipe["kind"])
        return LoadedRows(IterableDataset.from_generator(_generate, features=features, gen_kwargs=arguments), report)
    loaded = _build(shards, recipe, report, cache)
    loaded.report.check(max_rejected)
    return loaded


def _build(shards: list[Shard], recipe: dict[str, Any], report: SourceReport, cache: Path) -> LoadedRows:
    """Builds a data set in memory-mapped files, or reuses those of an earlier call."""
    import datasets
    from datasets.exceptions import DatasetGenerationError
    from filelock import FileLock

    versions = [CACHE_FORM, __version__, datasets.__version__]
    key = hashlib.sha256(json.dumps([versions, shards, recipe], sort_keys=True).encode()).hexdigest()[:16]
    folder = (cache / f"{report.source.replace('/', '-')}-{key}").absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        complete = (folder / REPORT).is_file()
        if not complete:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        tally = Tally(report.source, str(folder / PROBLEMS))
        arguments = {"shards": shards, "recipe": recipe, "tally": tally}
        try:
            dataset = datasets.Dataset.from_generator(
                _generate, features=features_of(recipe["kind"]), cache_dir=str(folder), gen_kwargs=arguments
            )
        except ValueError:  # no row was generated; errors of the generator itself come wrapped
            dataset = None
        except (DatasetGenerationError, OSError) as error:
            cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(cause, OSError) and cause.errno in NO_SPACE:
                reason = f"There is no space for the rows of {report.source} in {folder.parent} ({cause.strerror})"
                remedy = "free some, or name another folder (cache_dir, HF_DATASETS_CACHE)"
                raise ValueError(f"{reason}: {remedy}.") from error
            raise (cause if isinstance(cause, (ValueError, OSError)) else error) from None
        if complete:
            report = SourceReport(**read_json(folder / REPORT))
        else:
            report = replace(report, **tally.counts(), problems_file=tally.problems_file)
        if dataset is None:
            report.check(max_rejected=1.0)
            raise ValueError(f"{report.source} gave rows that datasets did not keep: delete {folder} and try again.")
        write_json(folder / REPORT, asdict(report))
    return LoadedRows(dataset, report)


def _generate(shards: list[Shard], recipe: dict[str, Any], tally: Tally | None = None) -> Iterator[Row]:
    """Yields the rows of some shards; while streaming `datasets` calls this with a part of them in each process."""
    adapter = adapter_of(recipe["format"])
    tally = tally or Tally(recipe["source"], max_rejected=recipe["max_rejected"])
    addresses = AddressTable(recipe["images"]) if recipe["images"] else None
    for shard in shards:
        beside = os.path.dirname(shard["path"]) if recipe["roots"] is None and recipe["base"] else None
        roots = Roots(recipe["roots"], beside)
        context = Context(recipe["source"], roots, recipe["options"], addresses, tally.notes)
        file = os.path.relpath(shard["path"], recipe["base"]) if recipe["base"] else shard["path"]
        for found in read_shard(shard):
            tally.records += 1
            try:
                rows = _convert(adapter, found, file if recipe["several"] else "", context, recipe["kind"])
            except RecordProblem as problem:
                tally.add(problem, file, _row_id(found, ""))
                continue
            tally.rows += len(rows)
            yield from rows
    tally.close()


def _convert(adapter: Adapter, found: Found, file: str, context: Context, kind: str) -> list[Row]:
    if isinstance(found.record, RecordProblem):
        raise found.record
    rows = list(adapter.convert(found.record, _row_id(found, file), context))
    for row in rows:
        try:
            own = validate_row(row)
        except InvalidRow as error:
            raise RejectedRecord("schema", str(error)) from None
        if own != kind:
            raise RejectedRecord("mixed kinds", f"a row of kind {own} among rows of kind {kind}")
    return rows


def _row_id(found: Found, file: str) -> str:
    """Returns an id that is unique within a source: the record's own id, and its place."""
    place = f"{file}:{found.place}" if file else found.place
    field = None if isinstance(found.record, RejectedRecord) else first_field(found.record, ("id", "uid"))
    own = "" if field is None else str(found.record[field])  # type: ignore[index]
    return place if own in ("", found.place) else f"{own}@{place}"
