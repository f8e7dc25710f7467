"""A dry run of a mixture: what it holds and what its rows take, without decoding an image or loading a model."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.data.image_refs import UnreadableImage, image_size
from xgenmm_hf.data.mixture import Mixture, sample_indices


if TYPE_CHECKING:
    import pandas as pd

    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor

REPORT, PROBLEMS, HISTOGRAM = "report.json", "problems.jsonl", "lengths.png"
NEEDED = {"datasets": "datasets", "yaml": "pyyaml", "matplotlib": "matplotlib"}
MEASURES = ("text_tokens", "image_tokens", "tokens", "tiles")
BATCH_ROWS = 64
BINS = 40


def require_libraries() -> None:
    """Checks that what a dry run needs is installed."""
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ValueError(f"A dry run needs {' and '.join(missing)}: install them with pip install 'xgenmm-hf[train]'.")


def preview_mixture(
    mixture: Mixture,
    processor: "XGenMMProcessor",
    output: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    image_aspect_ratio: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Counts the rows of a mixture and measures some or all of them; returns what `report.json` holds.

    `counts` are rows by source (a source may be tagged, such as VLGuard's kinds), `unreadable` measured rows with an
    image whose header cannot be read, repeats counted once, `all` and `by_source` what the other measured rows take.
    """
    if image_aspect_ratio is None and mixture.kind == "pretraining":
        image_aspect_ratio = "none"
    rows: Any = mixture.dataset
    chosen = some_rows(mixture, len(rows) if limit is None else limit)
    frame, unreadable = _measure(chosen, processor, image_aspect_ratio, progress)
    report = {
        "mixture": mixture.file,
        "kind": mixture.kind,
        "seed": mixture.seed,
        "rows": len(rows),
        "counts": dict(Counter(rows["source"])),
        "sources": [asdict(source) for source in mixture.sources],
        "unreadable": len(unreadable),
        "all": _summarise(frame, max_length),
        "by_source": {str(source): _summarise(part, max_length) for source, part in frame.groupby("source")},
    }
    if output is not None:
        problems = chain.from_iterable([*(part.problems() for part in mixture.sources), unreadable])
        _write(report, problems, frame["tokens"], Path(output))
    return report


def some_rows(mixture: Mixture, number: int) -> Any:
    """Returns so many of a mixture's rows, chosen at random with its seed, or all of them."""
    rows: Any = mixture.dataset
    if number >= len(rows):
        return rows
    return rows.select(sample_indices(len(rows), number, mixture.seed, "preview"))


def _measure(
    rows: Any, processor: "XGenMMProcessor", image_aspect_ratio: str | None, progress: Callable[[int, int], None]
) -> "tuple[pd.DataFrame, list[dict[str, str]]]":
    """Measures rows; those with an unreadable image are set apart."""
    import pandas as pd

    from xgenmm_hf.data.lengths import measure_rows

    measures = []
    # Keyed, as over-sampling repeats rows.
    unreadable: dict[tuple[str, str], dict[str, str]] = {}
    for start in range(0, len(rows), BATCH_ROWS):
        readable = []
        for row in rows.select(range(start, min(start + BATCH_ROWS, len(rows)))):
            try:
                for image in row["images"]:
                    image_size(image)
                readable.append(row)
            except UnreadableImage as error:
                entry = {"source": row["source"], "file": "", "id": row["id"], "outcome": "unreadable"}
                unreadable[row["source"], row["id"]] = {**entry, "kind": "image", "reason": str(error)}
        lengths = measure_rows(readable, processor, image_aspect_ratio)
        measures += [(row["source"], len(row["images"]), *one) for row, one in zip(readable, lengths, strict=True)]
        progress(min(start + BATCH_ROWS, len(rows)), len(rows))
    frame = pd.DataFrame(measures, columns=["source", "images", "text_tokens", "image_tokens", "tiles", "modality"])
    frame["tokens"] = frame["text_tokens"] + frame["image_tokens"]
    return frame, list(unreadable.values())


def _summarise(frame: "pd.DataFrame", max_length: int | None) -> dict[str, Any]:
    """Summarises the measures of some rows; without rows there are no figures."""
    counts = {"rows": len(frame), "images": int(frame["images"].sum()), "modalities": Counter(frame["modality"])}
    too_long = {} if max_length is None else {"too_long": int((frame["tokens"] > max_length).sum())}
    if frame.empty:
        return {**counts, **too_long}
    return {
        **counts,
        **too_long,
        **{
            name: {
                "total": int(frame[name].sum()),
                "mean": round(float(frame[name].mean()), 2),
                "median": float(frame[name].median()),
                "p95": float(frame[name].quantile(0.95)),
                "largest": int(frame[name].max()),
            }
            for name in MEASURES
        },
    }


def _write(report: dict[str, Any], problems: Iterable[dict[str, Any]], lengths: "pd.Series", folder: Path) -> None:
    """Writes the files of a dry run; each appears whole or not at all."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preview-", dir=folder) as name:
        part = Path(name)
        (part / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        with (part / PROBLEMS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems)
        figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.hist(lengths, bins=min(BINS, max(1, lengths.nunique())), color="#3b6ea5")
        title = f"{Path(report['mixture']).name}: tokens per row"
        axes.set(title=title, xlabel="tokens (text and images)", ylabel="rows")
        figure.savefig(part / HISTOGRAM)
        for file_name in (REPORT, PROBLEMS, HISTOGRAM):
            os.replace(part / file_name, folder / file_name)
