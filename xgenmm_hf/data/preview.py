"""A dry run of a mixture: what it holds and what its rows take, without decoding an image or loading a model."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import replacing, write_json, write_text
from xgenmm_hf.data.image_refs import UnreadableImage, image_size
from xgenmm_hf.data.mixture import Mixture, sample_indices
from xgenmm_hf.data.rows import Row


REPORT, PROBLEMS, HISTOGRAM = "report.json", "problems.jsonl", "lengths.png"
NEEDED = {"datasets": "datasets", "yaml": "pyyaml", "matplotlib": "matplotlib"}
BINS = 40

Progress = Callable[[int, int], None]


class Measure(NamedTuple):
    """What one row takes.

    Args:
        text_tokens: Tokens of its text.
        image_tokens: Tokens of its images.
        tiles: Tiles of its images.
        modality: text, image (one image) or images (several).
        images: Its images.
    """

    text_tokens: int
    image_tokens: int
    tiles: int
    modality: str
    images: int


@dataclass
class Spread:
    """How a number is spread over rows.

    Args:
        total: Its sum.
        mean: Its mean.
        median: Half of the rows have at most this.
        p95: 95 % of the rows have at most this.
        largest: Its maximum.
    """

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
        text_tokens: Text tokens a row.
        image_tokens: Image tokens a row.
        tokens: All tokens a row.
        tiles: Tiles a row.
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
    """Checks that what a dry run needs is installed.

    Raises:
        ValueError: With what is missing and the extra that has it.
    """
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
    """Counts and measures the rows of a mixture.

    Args:
        mixture: A mixture that is not streamed.
        processor: The model's `XGenMMProcessor`: its tokenizer and its tiles decide what a row takes.
        output: Folder for `report.json`, `problems.jsonl` (every record and row that is left out, with its reason)
            and `lengths.png` (histogram of tokens a row); default: none of them.
        limit: Measure only so many rows, chosen at random with the mixture's seed; default: all.
        max_length: Also count the rows with more tokens.
        image_aspect_ratio: Image mode; default: one tile for pre-training rows, as in stage 1, else the processor's.
        progress: Called with rows measured and rows to measure.

    Returns:
        The counts and measures.
    """
    if image_aspect_ratio is None and mixture.report.kind == "pretraining":
        image_aspect_ratio = "none"
    rows: Any = mixture.dataset
    chosen = rows
    if limit is not None and limit < len(rows):
        chosen = rows.select(sample_indices(len(rows), limit, mixture.report.seed, "preview"))
    measures, unreadable = measure_rows(chosen, processor, image_aspect_ratio, progress)
    everything = list(chain.from_iterable(measures.values()))
    preview = Preview(
        mixture=mixture.report.file,
        kind=mixture.report.kind,
        seed=mixture.report.seed,
        rows=len(rows),
        counts=dict(Counter(rows["source"])),
        sources=[asdict(source) for source in mixture.report.sources],
        unreadable=len(unreadable),
        all=summarise(everything, max_length),
        by_source={source: summarise(values, max_length) for source, values in sorted(measures.items())},
    )
    if output is not None:
        lengths = [measure.text_tokens + measure.image_tokens for measure in everything]
        write_preview(preview, problems_of(mixture, unreadable), lengths, output)
    return preview


def measure_rows(
    rows: Any, processor: Any, image_aspect_ratio: str | None, progress: Progress | None
) -> tuple[dict[str, list[Measure]], list[dict[str, str]]]:
    """Measures rows; those with an unreadable image are set apart.

    Args:
        rows: A `datasets.Dataset`.
        processor: The model's processor.
        image_aspect_ratio: Image mode; default: the processor's.
        progress: Called with rows measured and rows to measure.

    Returns:
        Measures by source, and an entry for each row that is left out.
    """
    from xgenmm_hf.data.lengths import measure_row

    measures: dict[str, list[Measure]] = {}
    # Keyed, as over-sampling repeats rows.
    unreadable: dict[tuple[str, str], dict[str, str]] = {}
    for done, row in enumerate(rows, start=1):
        problem = first_unreadable(row)
        if problem is None:
            length = measure_row(row, processor, image_aspect_ratio)
            measure = Measure(
                length.num_text_tokens, length.num_image_tokens, length.num_tiles, length.modality, len(row["images"])
            )
            measures.setdefault(row["source"], []).append(measure)
        else:
            entry = {"source": row["source"], "file": "", "id": row["id"], "outcome": "unreadable"}
            unreadable[row["source"], row["id"]] = {**entry, "kind": "image", "reason": problem}
        if progress is not None:
            progress(done, len(rows))
    return measures, list(unreadable.values())


def first_unreadable(row: Row) -> str | None:
    """Returns why the first unreadable image of a row is so, or None; only headers are read."""
    for image in row["images"]:
        try:
            image_size(image)
        except UnreadableImage as error:
            return str(error)
    return None


def problems_of(mixture: Mixture, unreadable: Iterable[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Yields every record and row that is left out, with its reason."""
    for source in mixture.report.sources:
        yield from source.report.problems()
    yield from unreadable


def summarise(values: Sequence[Measure], max_length: int | None) -> Measured:
    """Summarises the measures of some rows.

    Args:
        values: Their measures.
        max_length: Count the rows with more tokens.

    Returns:
        The summary, without spreads if there are no rows.
    """
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


def spread(numbers: Sequence[int]) -> Spread:
    """Returns how numbers are spread; there must be at least one."""
    import numpy as np

    median, p95 = np.percentile(numbers, [50, 95])
    return Spread(sum(numbers), round(sum(numbers) / len(numbers), 2), float(median), float(p95), max(numbers))


def write_preview(
    preview: Preview, problems: Iterable[dict[str, Any]], lengths: Sequence[int], output: str | os.PathLike[str]
) -> None:
    """Writes the files of a dry run; each appears whole or not at all.

    Args:
        preview: The counts and measures.
        problems: What is left out.
        lengths: Tokens of each measured row.
        output: The folder; files of an earlier run in it are replaced.
    """
    folder = Path(output)
    write_json(folder / REPORT, asdict(preview))
    write_text(folder / PROBLEMS, "".join(json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems))
    with replacing(folder / HISTOGRAM) as draft:
        draw_lengths(lengths, draft, f"{Path(preview.mixture).name}: tokens a row")


def draw_lengths(lengths: Sequence[int], file: Path, title: str) -> None:
    """Draws a histogram of row lengths.

    Args:
        lengths: Tokens of each row; may be empty.
        file: The PNG file to write.
        title: What stands above it.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("The histogram needs matplotlib: install it with pip install 'xgenmm-hf[train]'.") from None
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(lengths, bins=min(BINS, max(1, len(set(lengths)))), color="#3b6ea5")
    axes.set(title=title, xlabel="tokens (text and images)", ylabel="rows")
    figure.savefig(file)
