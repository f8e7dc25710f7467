"""Mixtures of data sets, described by a YAML file.

Two forms. By number of samples, as the recipe was published (a mapping of files; sampled with a fixed seed):

    data:
      llava.json: 10000          # fewer than the file has: a random subset; more: whole passes and a random rest
      text.jsonl: all
    roots:
      coco: /data/coco           # coco/train2017/1.jpg -> /data/coco/train2017/1.jpg

By weights, for map-style data sets and streams (`datasets.interleave_datasets`):

    datasets:
      - {path: mint/*.tar, format: interleaved, weight: 32.5}
      - {dataset: Salesforce/blip3-kale, config: core, weight: 25, images: downloaded/kale}

A source is files (`path`) or a data set of the Hub (`dataset`, with `config`, `split` and `revision`); images named by
address are looked up in `images`. Relative paths are relative to the YAML file. A data file in place of the YAML file
is a mixture of itself.
"""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from xgenmm_hf.compat import shuffle_stream
from xgenmm_hf.data.hub_sets import HubSet
from xgenmm_hf.data.loading import MAX_REJECTED, STREAM_SHARDS, load_rows
from xgenmm_hf.data.records import SUFFIXES
from xgenmm_hf.data.report import SourceReport


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, IterableDataset

ALL = "all"
STOPPING = ("all_exhausted", "first_exhausted")
SHUFFLE_BUFFER = 256
OPTIONS = ("seed", "max_rejected", "stopping", "shuffle_buffer")
COMMON_KEYS = {"roots", "seed", "max_rejected"}
FORM_KEYS = {"data": COMMON_KEYS | {"data"}, "datasets": COMMON_KEYS | {"datasets", "stopping", "shuffle_buffer"}}
HUB_KEYS = ("config", "split", "revision")
SOURCE_KEYS = {"path", "dataset", *HUB_KEYS, "format", "name", "options", "roots", "images"}


@dataclass(frozen=True)
class Source:
    """One data set of a mixture, its files or the Hub's; the share is a number of samples, "all", or a weight.

    Paths are patterns relative to the mixture's folder. Without `roots` of its own it has the mixture's.
    """

    path: tuple[str, ...]
    share: float | str
    hub: HubSet | None = None
    format: str = "auto"
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    roots: Mapping[str, str] | None = None
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class MixtureConfig:
    """A mixture as its file describes it.

    One by weights ends, by `stopping`, with the first data set that is used up, or once all are (those used up earlier
    start again). So many rows of each stream as `shuffle_buffer` says are shuffled together; 0: none.
    """

    file: Path
    sources: tuple[Source, ...]
    by_weight: bool
    roots: Mapping[str, str] | None = None
    seed: int = 0
    max_rejected: float = MAX_REJECTED
    stopping: str = STOPPING[0]
    shuffle_buffer: int = SHUFFLE_BUFFER


@dataclass
class Mixture:
    """A `datasets.Dataset`, while streaming an `IterableDataset`, of rows of one kind, and what it is made of."""

    dataset: "Dataset | IterableDataset"
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
    prepare: "Callable[[Dataset], Dataset] | None" = None,
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
        prepare: Called with the rows of each source before some are chosen; it returns as many, in the same order.

    Returns:
        The mixture.

    Raises:
        ValueError: If the file or a source is malformed, sources give rows of different kinds, or numbers of samples
            are to be streamed.
    """
    config = read_mixture(path)
    seed = config.seed if seed is None else seed
    if streaming and not config.by_weight:
        raise ValueError(f"{path} states numbers of samples, which need whole files: stream a mixture by weights.")
    loaded = []
    for source in config.sources:
        roots = config.roots if source.roots is None else source.roots
        loaded.append(
            load_rows(
                source.format,
                source.hub or [os.path.join(config.file.parent, pattern) for pattern in source.path],
                name=source.name,
                roots=roots,
                images=source.images,
                streaming=streaming,
                options=source.options,
                max_rejected=config.max_rejected if max_rejected is None else max_rejected,
                cache_dir=cache_dir,
                num_shards=num_shards,
            )
        )
    reports = [item.report for item in loaded]
    kind = _one_kind(reports, config.file)
    sets: list[Any] = [item.dataset if prepare is None else prepare(item.dataset) for item in loaded]
    if config.by_weight:
        dataset = _interleave(sets, reports, config, seed, streaming)
    else:
        dataset = _sample(sets, reports, config, seed)
    return Mixture(dataset, str(path), kind, seed, reports)


def _one_kind(reports: Sequence[SourceReport], file: Path) -> str:
    """Returns the kind of rows that all sources share."""
    kinds = {report.kind: report for report in reports}
    if len(kinds) > 1:
        parts = ", ".join(f"{report.source} gives {kind} rows" for kind, report in kinds.items())
        raise ValueError(f"{file} mixes kinds of rows ({parts}): train them in stages of their own.")
    return next(iter(kinds))


def sample_indices(size: int, samples: int, seed: int, name: str) -> "np.ndarray":
    """Chooses rows of a data set."""
    import numpy as np

    passes, rest = divmod(samples, size)
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chosen = np.sort(generator.permutation(size)[:rest])
    return np.concatenate([np.tile(np.arange(size), passes), chosen]).astype(np.int64)


def _sample(sets: Sequence[Any], reports: Sequence[SourceReport], config: MixtureConfig, seed: int) -> "Dataset":
    """Puts the chosen rows of each data set one after another."""
    from datasets import concatenate_datasets

    parts = []
    for rows, part, source in zip(sets, reports, config.sources, strict=True):
        part.samples = len(rows) if source.share == ALL else int(source.share)
        if part.samples == len(rows):
            parts.append(rows)
        else:
            parts.append(rows.select(sample_indices(len(rows), part.samples, seed, " ".join(source.path))))
    return concatenate_datasets(parts)


def _interleave(
    sets: Sequence[Any], reports: Sequence[SourceReport], config: MixtureConfig, seed: int, streaming: bool
) -> "Dataset | IterableDataset":
    """Draws from the data sets by their weights."""
    from datasets import interleave_datasets

    total = sum(float(source.share) for source in config.sources)
    for part, source in zip(reports, config.sources, strict=True):
        part.weight = float(source.share) / total
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
    if not file.is_file():
        raise ValueError(f"There is no mixture file at {file}: check the path.")
    if file.suffix.lower() in SUFFIXES:
        return MixtureConfig(file, (Source((file.name,), 1.0, name=file.stem),), by_weight=True, shuffle_buffer=0)
    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    forms = [form for form in FORM_KEYS if isinstance(fields, dict) and form in fields]
    if len(forms) != 1:
        raise ValueError(f"{file} must hold either `data` (files -> numbers of samples) or `datasets` (with weights).")
    form = forms[0]
    _check(fields, FORM_KEYS[form], str(file))
    if form == "data":
        sources = [_source(entry, "samples", file) for entry in _counted(fields[form])]
    else:
        sources = [_source(entry, "weight", file) for entry in fields[form]]
    named = _with_names([source for source in sources if source.share != 0], file)
    if not named:
        raise ValueError(f"{file}: every file of `data` has 0 samples.")
    options = {name: fields[name] for name in OPTIONS if name in fields}
    return MixtureConfig(file, named, form == "datasets", _roots(fields, file), **options)


def _counted(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the sources of the form by number of samples as mappings, as the other form has them."""
    for pattern, value in data.items():
        fields = value if isinstance(value, dict) else {"samples": value}
        # Beside a path or a set of the Hub, the key is only a name.
        named = "dataset" in fields or "path" in fields
        yield {"name" if named else "path": str(pattern), "samples": ALL, **fields}


def _source(fields: dict[str, Any], share: str, file: Path) -> Source:
    """Builds a source from its fields; `share` names the one that says how much of it there is."""
    patterns, hub = _listed(fields.get("path")), _hub(fields, file)
    if bool(patterns) == (hub is not None):
        held = f"the path {fields.get('path')!r}" + (f" and the dataset {hub.name}" if hub else "")
        raise ValueError(f"{file}: a source has {held}; give either path (files) or dataset (an id of the Hub).")
    patterns = patterns or [hub.name]  # type: ignore[union-attr]
    _check({share: None, **fields}, SOURCE_KEYS | {share}, f"{file}: {patterns[0]}")
    return Source(
        tuple(patterns),
        fields[share],
        hub,
        fields.get("format", "auto"),
        fields.get("name") or "",
        fields.get("options") or {},
        _roots(fields, file),
        tuple(os.path.join(file.parent, folder) for folder in _listed(fields.get("images"))),
    )


def _hub(fields: Mapping[str, Any], file: Path) -> HubSet | None:
    given = {name: fields[name] for name in HUB_KEYS if fields.get(name) is not None}
    name = fields.get("dataset")
    if not isinstance(name, str):
        if given or name is not None:
            raise ValueError(f"{file}: {', '.join(given) or 'dataset'} belongs to one of the Hub (dataset: org/name).")
        return None
    beside = file.parent / name
    return HubSet(str(beside) if beside.is_dir() else name, **given)


def _with_names(sources: Sequence[Source], file: Path) -> tuple[Source, ...]:
    """Gives every source a name of its own: its file's or folder's, and as much of the path as tells it apart."""
    stated = Counter(source.name for source in sources if source.name)
    double = next((name for name, number in stated.items() if number > 1), None)
    if double is not None:
        raise ValueError(f"{file}: two sources have the name {double}; give each its own.")
    taken = {*stated}
    named = []
    for source in sources:
        if not source.name:
            names = [
                *_names_of(source),
                *(f"{_names_of(source)[-1]}-{number}" for number in range(2, len(sources) + 2)),
            ]
            source = replace(source, name=next(name for name in names if name not in taken))
        taken.add(source.name)
        named.append(source)
    return tuple(named)


def _names_of(source: Source) -> list[str]:
    """Returns what a source may be called, from short to long."""
    if source.hub is not None:
        name = "/".join(source.hub.name.split("/")[-2:])
        return [f"{name}/{source.hub.config}" if source.hub.config else name]
    path = str(PurePath(source.path[0]).with_suffix(""))
    parts = [part for part in path.split("/") if part and "*" not in part] or ["data"]
    return ["/".join(parts[-size:]) for size in range(1, len(parts) + 1)]


def _listed(value: Any) -> list[str]:
    """Returns one string or several as a list; an empty one for anything else."""
    several = [value] if isinstance(value, str) else value
    return several if isinstance(several, list) and all(isinstance(item, str) for item in several) else []


def _roots(fields: Mapping[str, Any], file: Path) -> dict[str, str] | None:
    """Reads a table of roots; its folders are relative to the mixture's."""
    table = fields.get("roots")
    if table is None:
        return None
    return {str(prefix or ""): os.path.join(file.parent, folder) for prefix, folder in table.items()}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


CHECKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "data": ("a mapping of files to numbers of samples", lambda value: isinstance(value, dict) and bool(value)),
    "datasets": (
        "a list of mappings with path and weight",
        lambda value: isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value),
    ),
    "samples": ("a whole number or `all`", lambda value: value == ALL or _is_count(value)),
    "weight": ("a positive number", lambda value: _is_number(value) and 0 < value < float("inf")),
    "options": ("a mapping", lambda value: value is None or isinstance(value, dict)),
    "images": ("a folder that img2dataset wrote, a table, or a list", lambda value: not value or bool(_listed(value))),
    "roots": (
        "a mapping of first components of images' paths to folders",
        lambda value: value is None or isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
    ),
    "seed": ("a whole number", _is_count),
    "shuffle_buffer": ("a whole number", _is_count),
    "max_rejected": ("a share from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "stopping": (" or ".join(STOPPING), lambda value: value in STOPPING),
}
"""What the values of keys must be, in words and as a function."""


def _check(fields: Mapping[str, Any], known: set[str], where: str) -> None:
    """Refuses keys that mean nothing here, as most are misspelt, and values that fit no key."""
    unknown = sorted(str(key) for key in fields if key not in known)
    if unknown:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}; it may have {', '.join(sorted(known))}.")
    for name, (what, fits) in CHECKS.items():
        if name in fields and not fits(fields[name]):
            raise ValueError(f"{where}: {name} is {fields[name]!r:.200}; it must be {what}.")
