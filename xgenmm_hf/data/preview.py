"""A dry run of a mixture: what it holds and what its rows take, without decoding an image or loading a model."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from xgenmm_hf.data.image_refs import UnreadableImage, image_size
from xgenmm_hf.data.mixture import Mixture, sample_indices
from xgenmm_hf.data.rows import Row


REPORT, PROBLEMS, HISTOGRAM = "report.json", "problems.jsonl", "lengths.png"
NEEDED = {"datasets": "datasets", "yaml": "pyyaml", "matplotlib": "matplotlib"}
BATCH_ROWS = 64
BINS = 40

Progress = Callable[[int, int], None]
# (text tokens, image tokens, tiles, modality, images) of a row.
Measure = tuple[int, int, int, str, int]


@dataclass
class Spread:
    """How a number is spread over rows: `p95` is what 95 % of the rows have at most."""

    total: int
    mean: float
    median: float
    p95: float
    largest: int


@dataclass
class Measured:
    """What the measured rows of one source, or of all, take.

    Args:
        rows: Rows measured.
        images: Their images.
        text_tokens: Text tokens per row.
        image_tokens: Image tokens per row.
        tokens: All tokens per row.
        tiles: Tiles per row.
        modalities: Rows by modality: text, image (one image), images (several).
        too_long: Rows with more tokens than the limit; None without one.
    """

    rows: int = 0
    images: int = 0
    text_tokens: Spread | None = None
    image_tokens: Spread | None = None
    tokens: Spread | None = None
    tiles: Spread | None = None
    modalities: dict[str, int] = field(default_factory=dict)
    too_long: int | None = None


@dataclass
class Preview:
    """The result of a dry run.

    Args:
        mixture: The YAML file.
        kind: Kind of its rows.
        seed: Seed it was sampled with.
        rows: Rows of the mixture, counting repeats.
        counts: Rows by source; a source may be tagged (VLGuard's example kinds).
        sources: What became of each file's records, and how many samples it gives.
        unreadable: Measured rows with an image whose header cannot be read, repeats counted once.
        all: What the measured rows take.
        by_source: The same for each source.
    """

    mixture: str
    kind: str
    seed: int
    rows: int
    counts: dict[str, int]
    sources: list[dict[str, Any]]
    unreadable: int
    all: Measured
    by_source: dict[str, Measured]


def require_libraries() -> None:
    """Checks that what a dry run needs is installed."""
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ValueError(f"A dry run needs {' and '.join(missing)}: install them with pip install 'xgenmm-hf[train]'.")


def preview_mixture(
    mixture: Mixture,
    processor: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    image_aspect_ratio: str | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Counts and measures the rows of a mixture."""
    if image_aspect_ratio is None and mixture.report.kind == "pretraining":
        image_aspect_ratio = "none"
    rows: Any = mixture.dataset
    chosen = some_rows(mixture, len(rows) if limit is None else limit)
    measures, unreadable = _measure(chosen, processor, image_aspect_ratio, progress)
    everything = list(chain.from_iterable(measures.values()))
    preview = Preview(
        mixture=mixture.report.file,
        kind=mixture.report.kind,
        seed=mixture.report.seed,
        rows=len(rows),
        counts=dict(Counter(rows["source"])),
        sources=[asdict(source) for source in mixture.report.sources],
        unreadable=len(unreadable),
        all=_summarise(everything, max_length),
        by_source={source: _summarise(values, max_length) for source, values in sorted(measures.items())},
    )
    if output is not None:
        problems = chain.from_iterable([*(part.report.problems() for part in mixture.report.sources), unreadable])
        _write(preview, problems, [text + image for text, image, *_ in everything], Path(output))
    return preview


def some_rows(mixture: Mixture, number: int) -> Any:
    """Returns so many of a mixture's rows, chosen at random with its seed, or all of them."""
    rows: Any = mixture.dataset
    if number >= len(rows):
        return rows
    return rows.select(sample_indices(len(rows), number, mixture.report.seed, "preview"))


def spread(numbers: Sequence[int]) -> Spread:
    """Returns how numbers are spread; there must be at least one."""
    import numpy as np

    median, p95 = np.percentile(numbers, [50, 95])
    return Spread(sum(numbers), round(sum(numbers) / len(numbers), 2), float(median), float(p95), max(numbers))


def _measure(
    rows: Any, processor: Any, image_aspect_ratio: str | None, progress: Progress | None
) -> tuple[dict[str, list[Measure]], list[dict[str, str]]]:
    """Measures rows by source; those with an unreadable image are set apart."""
    from xgenmm_hf.data.lengths import measure_rows

    measures: dict[str, list[Measure]] = {}
    # Keyed, as over-sampling repeats rows.
    unreadable: dict[tuple[str, str], dict[str, str]] = {}
    for start in range(0, len(rows), BATCH_ROWS):
        batch = [rows[index] for index in range(start, min(start + BATCH_ROWS, len(rows)))]
        problems = [_first_unreadable(row) for row in batch]
        readable = [row for row, problem in zip(batch, problems, strict=True) if problem is None]
        for row, length in zip(readable, measure_rows(readable, processor, image_aspect_ratio), strict=True):
            measures.setdefault(row["source"], []).append((*length, len(row["images"])))
        for row, problem in zip(batch, problems, strict=True):
            if problem is not None:
                entry = {"source": row["source"], "file": "", "id": row["id"], "outcome": "unreadable"}
                unreadable[row["source"], row["id"]] = {**entry, "kind": "image", "reason": problem}
        if progress is not None:
            progress(start + len(batch), len(rows))
    return measures, list(unreadable.values())


def _first_unreadable(row: Row) -> str | None:
    """Returns why the first unreadable image of a row is so, or None; only headers are read."""
    for image in row["images"]:
        try:
            image_size(image)
        except UnreadableImage as error:
            return str(error)
    return None


def _summarise(values: Sequence[Measure], max_length: int | None) -> Measured:
    """Summarises the measures of some rows, without spreads if there are no rows."""
    if not values:
        return Measured()
    text, image, tiles, modalities, images = zip(*values, strict=True)
    tokens = [one + other for one, other in zip(text, image, strict=True)]
    return Measured(
        rows=len(values),
        images=sum(images),
        text_tokens=spread(text),
        image_tokens=spread(image),
        tokens=spread(tokens),
        tiles=spread(tiles),
        modalities=dict(Counter(modalities)),
        too_long=None if max_length is None else sum(number > max_length for number in tokens),
    )


def _write(preview: Preview, problems: Iterable[dict[str, Any]], lengths: Sequence[int], folder: Path) -> None:
    """Writes the files of a dry run; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preview-", dir=folder) as name:
        part = Path(name)
        (part / REPORT).write_text(json.dumps(asdict(preview), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        with (part / PROBLEMS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems)
        _draw_lengths(lengths, part / HISTOGRAM, f"{Path(preview.mixture).name}: tokens per row")
        for file_name in (REPORT, PROBLEMS, HISTOGRAM):
            os.replace(part / file_name, folder / file_name)


def _draw_lengths(lengths: Sequence[int], file: Path, title: str) -> None:
    """Draws a histogram of row lengths."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("The histogram needs matplotlib: install it with pip install 'xgenmm-hf[train]'.") from None
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(lengths, bins=min(BINS, max(1, len(set(lengths)))), color="#3b6ea5")
    axes.set(title=title, xlabel="tokens (text and images)", ylabel="rows")
    figure.savefig(file)
