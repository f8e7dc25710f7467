"""Mixtures of data sets, described by a YAML file (see docs/data-formats.md); paths in it are relative to it."""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from xgenmm_hf.compat import shuffle_stream
from xgenmm_hf.data.adapters import AUTO
from xgenmm_hf.data.hub_sets import HubSet
from xgenmm_hf.data.loading import MAX_REJECTED, STREAM_SHARDS, load_rows
from xgenmm_hf.data.records import SUFFIXES
from xgenmm_hf.data.report import SourceReport


ALL = "all"
STOPPING = ("all_exhausted", "first_exhausted")
SHUFFLE_BUFFER = 256
OPTIONS = ("seed", "max_rejected", "stopping", "shuffle_buffer")
COMMON_KEYS = {"roots", "seed", "max_rejected"}
FORM_KEYS = {"data": COMMON_KEYS | {"data"}, "datasets": COMMON_KEYS | {"datasets", "stopping", "shuffle_buffer"}}
HUB_KEYS = ("config", "split", "revision")
SOURCE_KEYS = {"path", "dataset", *HUB_KEYS, "format", "name", "options", "roots", "images"}


@dataclass
class Source:
    """One data set of a mixture; the share is a number of samples, "all", or a weight.

    `called` holds the mixture's names of its files, which decide the rows drawn; `arguments` are those of `load_rows`.
    """

    called: list[str]
    share: float | str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class MixtureConfig:
    """A mixture as its file describes it.

    A mixture by weights ends, as `stopping` says, when the first data set is used up or when all are (those used up
    earlier start again). `shuffle_buffer` rows of each stream are shuffled together; 0: none.
    """

    file: Path
    sources: list[Source]
    by_weight: bool
    seed: int = 0
    max_rejected: float = MAX_REJECTED
    stopping: str = STOPPING[0]
    shuffle_buffer: int = SHUFFLE_BUFFER


@dataclass
class Mixture:
    """A `datasets.Dataset`, while streaming an `IterableDataset`, of rows of one kind, and what it is made of."""

    dataset: Any
    file: str
    kind: str
    seed: int
    sources: list[SourceReport]


def load_mixture(
    path: str | os.PathLike[str],
    streaming: bool = False,
    seed: int | None = None,
    *,
    max_rejected: float | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    num_shards: int = STREAM_SHARDS,
    prepare: Callable[[Any], Any] | None = None,
) -> Mixture:
    """Loads a mixture; the same file and seed always give the same rows in the same order.

    Args:
        path: The YAML file.
        streaming: Whether to read while iterating; by weights only. `datasets.distributed.split_dataset_by_node`
            then gives each rank its shards.
        seed: Seed; default: the file's, else 0.
        max_rejected: Largest share of malformed records of a source; default: the file's, else 1 %.
        cache_dir: Where caches go; see `load_rows`.
        num_shards: Shards of each stream.
        prepare: Called with the rows of each source before sampling; it returns as many, in the same order.

    Returns:
        The mixture.

    Raises:
        ValueError: If the file or a source is malformed, sources give rows of different kinds, or a mixture by
            numbers of samples is streamed.
    """
    config = read_mixture(path)
    seed = config.seed if seed is None else seed
    if streaming and not config.by_weight:
        raise ValueError(f"{path} states numbers of samples, which need whole files: stream a mixture by weights.")
    loaded = [
        load_rows(
            **source.arguments,
            name=source.name,
            streaming=streaming,
            max_rejected=config.max_rejected if max_rejected is None else max_rejected,
            cache_dir=cache_dir,
            num_shards=num_shards,
        )
        for source in config.sources
    ]
    reports = [item.report for item in loaded]
    kinds = {report.kind: report for report in reports}
    if len(kinds) > 1:
        parts = ", ".join(f"{report.source} gives {kind} rows" for kind, report in kinds.items())
        raise ValueError(f"{config.file} mixes kinds of rows ({parts}): train each kind in its own stage.")
    sets: list[Any] = [item.dataset if prepare is None else prepare(item.dataset) for item in loaded]
    if config.by_weight:
        dataset = _interleave(sets, reports, config, seed, streaming)
    else:
        dataset = _sample(sets, reports, config, seed)
    return Mixture(dataset, str(path), reports[0].kind, seed, reports)


def sample_indices(size: int, samples: int, seed: int, name: str) -> np.ndarray:
    """Returns the indices of `samples` rows of a data set: whole passes and a random rest."""
    passes, rest = divmod(samples, size)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chosen = np.sort(generator.permutation(size)[:rest])
    return np.concatenate([np.tile(np.arange(size), passes), chosen]).astype(np.int64)


def _sample(sets: Sequence[Any], reports: Sequence[SourceReport], config: MixtureConfig, seed: int) -> Any:
    from datasets import concatenate_datasets

    parts = []
    for rows, report, source in zip(sets, reports, config.sources, strict=True):
        number = report.samples = len(rows) if source.share == ALL else int(source.share)
        whole = number == len(rows)
        parts.append(rows if whole else rows.select(sample_indices(len(rows), number, seed, " ".join(source.called))))
    return concatenate_datasets(parts)


def _interleave(
    sets: Sequence[Any], reports: Sequence[SourceReport], config: MixtureConfig, seed: int, streaming: bool
) -> Any:
    from datasets import interleave_datasets

    shares = [float(source.share) for source in config.sources]
    for report, share in zip(reports, shares, strict=True):
        report.weight = share / sum(shares)
    if config.shuffle_buffer and streaming:
        sets = [shuffle_stream(rows, seed, config.shuffle_buffer) for rows in sets]
    elif config.shuffle_buffer:
        sets = [rows.shuffle(seed=seed) for rows in sets]
    if len(sets) == 1:
        return sets[0]
    weights = [report.weight for report in reports]
    return interleave_datasets(sets, probabilities=weights, seed=seed, stopping_strategy=config.stopping)


def read_mixture(path: str | os.PathLike[str]) -> MixtureConfig:
    """Reads and checks a mixture's file."""
    import yaml

    file = Path(path)
    fields: Any
    if not file.is_file():
        raise ValueError(f"There is no mixture file at {file}: check the path.")
    if file.suffix.lower() in SUFFIXES:
        fields = {"datasets": [{"path": file.name, "name": file.stem, "weight": 1}], "shuffle_buffer": 0}
    else:
        try:
            fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    forms = [form for form in FORM_KEYS if isinstance(fields, dict) and form in fields]
    if len(forms) != 1:
        raise ValueError(f"{file} must hold either `data` (files -> numbers of samples) or `datasets` (with weights).")
    by_weight = forms == ["datasets"]
    _check(fields, FORM_KEYS[forms[0]], str(file))
    entries = fields["datasets"] if by_weight else [_entry(*item) for item in fields["data"].items()]
    sources = [_source(entry, "weight" if by_weight else "samples", file, _roots(fields, file)) for entry in entries]
    sources = [source for source in sources if source.share != 0]
    if not sources:
        raise ValueError(f"{file}: every file of `data` has 0 samples.")
    _name(sources, file)
    options = {name: fields[name] for name in OPTIONS if name in fields}
    return MixtureConfig(file, sources, by_weight, **options)


def _entry(pattern: Any, value: Any) -> dict[str, Any]:
    """Returns a source of `data` in the form of `datasets`; if it has a path or a Hub set, its key is only a name."""
    fields = value if isinstance(value, dict) else {"samples": value}
    return {"path" if {"dataset", "path"}.isdisjoint(fields) else "name": str(pattern), "samples": ALL, **fields}


def _source(fields: dict[str, Any], share: str, file: Path, roots: Mapping[str, str] | None) -> Source:
    """Builds a source from its fields; `share` names the field with its share."""
    patterns, hub = _listed(fields.get("path")), _hub(fields, file)
    if bool(patterns) == (hub is not None):
        held = f"the path {fields.get('path')!r}" + (f" and the dataset {hub.name}" if hub else "")
        raise ValueError(f"{file}: a source has {held}; give either path (files) or dataset (an id of the Hub).")
    called = patterns if hub is None else [hub.name]
    _check({share: None, **fields}, SOURCE_KEYS | {share}, f"{file}: {called[0]}")
    return Source(
        called,
        fields[share],
        fields.get("name") or "",
        {
            "format": fields.get("format", AUTO),
            "files": hub or [os.path.join(file.parent, pattern) for pattern in patterns],
            "options": fields.get("options"),
            "roots": roots if fields.get("roots") is None else _roots(fields, file),
            "images": [os.path.join(file.parent, folder) for folder in _listed(fields.get("images"))],
        },
    )


def _hub(fields: Mapping[str, Any], file: Path) -> HubSet | None:
    given = {name: fields[name] for name in HUB_KEYS if fields.get(name) is not None}
    name = fields.get("dataset")
    if not isinstance(name, str):
        if given or name is not None:
            raise ValueError(f"{file}: {', '.join(given) or 'dataset'} belongs to a Hub set (dataset: org/name).")
        return None
    beside = file.parent / name
    return HubSet(str(beside) if beside.is_dir() else name, **given)


def _name(sources: Sequence[Source], file: Path) -> None:
    """Gives every source a unique name: its file's or folder's, with as much of the path as needed."""
    stated = Counter(source.name for source in sources if source.name)
    if stated and stated.most_common(1)[0][1] > 1:
        raise ValueError(f"{file}: two sources have the name {stated.most_common(1)[0][0]}; give each its own.")
    taken = {*stated}
    for source in sources:
        names = _names_of(source)
        numbered = (f"{names[-1]}-{number}" for number in count(2))
        source.name = source.name or next(name for name in chain(names, numbered) if name not in taken)
        taken.add(source.name)


def _names_of(source: Source) -> list[str]:
    """Returns possible names of a source, from short to long."""
    files = source.arguments["files"]
    if isinstance(files, HubSet):
        return ["/".join([*files.name.split("/")[-2:], *([files.config] if files.config else [])])]
    path = str(PurePath(source.called[0]).with_suffix(""))
    parts = [part for part in path.split("/") if part and "*" not in part] or ["data"]
    return ["/".join(parts[-size:]) for size in range(1, len(parts) + 1)]


def _listed(value: Any) -> list[str]:
    """Returns a string or a list of strings as a list, and an empty list for anything else."""
    several = [value] if isinstance(value, str) else value
    return several if isinstance(several, list) and all(isinstance(item, str) for item in several) else []


def _roots(fields: Mapping[str, Any], file: Path) -> dict[str, str] | None:
    """Reads a table of roots; its folders are relative to the mixture's."""
    table = fields.get("roots")
    if table is None:
        return None
    return {str(prefix or ""): os.path.join(file.parent, folder) for prefix, folder in table.items()}


def _is_number(value: Any, kind: Any = float) -> bool:
    """Tells whether a value is a non-negative number; it must be whole if the kind is `int`."""
    return isinstance(value, (int, kind)) and not isinstance(value, bool) and value >= 0


CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "data": ("a mapping of files to numbers of samples", lambda value: isinstance(value, dict) and bool(value)),
    "datasets": (
        "a list of mappings with path and weight",
        lambda value: isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value),
    ),
    "samples": ("a whole number or `all`", lambda value: value == ALL or _is_number(value, int)),
    "weight": ("a positive number", lambda value: _is_number(value) and 0 < value < float("inf")),
    "options": ("a mapping", lambda value: value is None or isinstance(value, dict)),
    "images": ("a folder that img2dataset wrote, a table, or a list", lambda value: not value or bool(_listed(value))),
    "roots": (
        "a mapping of first components of images' paths to folders",
        lambda value: value is None or isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
    ),
    "seed": ("a whole number", lambda value: _is_number(value, int)),
    "shuffle_buffer": ("a whole number", lambda value: _is_number(value, int)),
    "max_rejected": ("a share from 0 to 1", lambda value: _is_number(value) and value <= 1),
    "stopping": (" or ".join(STOPPING), lambda value: value in STOPPING),
}
"""What the values of keys must be, in words and as a function."""


def _check(fields: Mapping[str, Any], known: set[str], where: str) -> None:
    """Refuses unknown keys, most of which are misspelt, and values that do not fit their key."""
    unknown = sorted(str(key) for key in fields if key not in known)
    if unknown:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}; it may have {', '.join(sorted(known))}.")
    for name, (what, fits) in CHECKS.items():
        if name in fields and not fits(fields[name]):
            raise ValueError(f"{where}: {name} is {fields[name]!r:.200}; it must be {what}.")
