"""A dry run of a mixture: its contents, the lengths of its rows, and rows in readable form; it loads no model."""

import base64
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from html import escape
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from xgenmm_hf.conversion.files import replacing, write_json, write_text
from xgenmm_hf.data.encoding import WRITTEN_PARTS, RenderedText, render_texts, row_name
from xgenmm_hf.data.image_refs import UnreadableImage, image_name, image_size, open_image, png_bytes
from xgenmm_hf.data.lengths import measure_rows
from xgenmm_hf.data.mixture import Mixture, sample_indices
from xgenmm_hf.data.report import PROBLEMS
from xgenmm_hf.data.rows import Row
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


REPORT, HISTOGRAM = "report.json", "lengths.png"
NEEDED = {"datasets": "datasets", "yaml": "pyyaml", "matplotlib": "matplotlib"}
MEASURES = ("text_tokens", "image_tokens", "tokens", "tiles")
BATCH_ROWS = 64
BINS = 40
IMAGE_SIDE = 400
STYLE = """<!doctype html><meta charset="utf-8">
<style>img { margin: 6px } pre { white-space: pre-wrap; color: #555 } mark { background: none; color: #0a7d32 }</style>
"""


def require_libraries() -> None:
    """Checks that what a dry run needs is installed."""
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ValueError(f"A dry run needs {' and '.join(missing)}: install them with pip install 'xgenmm-hf[train]'.")


def preview_mixture(
    mixture: Mixture,
    processor: XGenMMProcessor,
    output: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    image_aspect_ratio: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Counts the rows of a mixture and measures some or all of them; returns what `report.json` holds.

    Rows with an image whose header cannot be read count only as `unreadable`, and repeated rows only once.
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
    """Returns `number` rows of a mixture, chosen at random with its seed, or all if it has fewer."""
    rows: Any = mixture.dataset
    if number >= len(rows):
        return rows
    return rows.select(sample_indices(len(rows), number, mixture.seed, "preview"))


def _measure(
    rows: Any, processor: XGenMMProcessor, image_aspect_ratio: str | None, progress: Callable[[int, int], None]
) -> tuple[Any, list[dict[str, str]]]:
    """Measures the readable rows; returns the measures, and an entry for each row with an unreadable image."""
    import pandas as pd

    measures = []
    # By key, because over-sampling repeats rows.
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


def _summarise(frame: Any, max_length: int | None) -> dict[str, Any]:
    """Summarises the measures of some rows; without rows there are no figures."""
    summary: dict[str, Any] = {"rows": len(frame), "images": int(frame["images"].sum())}
    summary["modalities"] = Counter(frame["modality"])
    if max_length is not None:
        summary["too_long"] = int((frame["tokens"] > max_length).sum())
    for name in () if frame.empty else MEASURES:
        column = frame[name]
        summary[name] = {
            "total": int(column.sum()),
            "mean": round(float(column.mean()), 2),
            "median": float(column.median()),
            "p95": float(column.quantile(0.95)),
            "largest": int(column.max()),
        }
    return summary


def _write(report: dict[str, Any], problems: Iterable[dict[str, Any]], lengths: Any, folder: Path) -> None:
    """Writes the files of a dry run; each appears whole or not at all."""
    from matplotlib.figure import Figure

    write_json(folder / REPORT, report)
    lines = (json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems)
    with replacing(folder / PROBLEMS) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(lengths, bins=min(BINS, max(1, lengths.nunique())), color="#3b6ea5")
    title = f"{Path(report['mixture']).name}: tokens per row"
    axes.set(title=title, xlabel="tokens (text and images)", ylabel="rows")
    with replacing(folder / HISTOGRAM) as draft:
        figure.savefig(draft)


def show_row(row: Row, processor: XGenMMProcessor) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Renders a row: for each text its title ("" for a single text) and its pieces as (text, whether a target)."""
    titles = ("chosen", "rejected") if row.get("chosen") else ("",)
    return [(title, _pieces(text)) for title, text in zip(titles, render_texts(processor, row), strict=True)]


def _pieces(rendered: RenderedText) -> list[tuple[str, bool]]:
    text, spans = rendered
    if spans is None:
        never = "|".join(map(re.escape, WRITTEN_PARTS.values()))
        pieces = [(part, index % 2 == 0) for index, part in enumerate(re.split(f"({never})", text))]
    else:
        bounds = [0, *(place for span in spans for place in span), len(text)]
        pieces = [(text[start:end], index % 2 == 1) for index, (start, end) in enumerate(pairwise(bounds))]
    return [(piece, trained) for piece, trained in pieces if piece]


def open_images(row: Row) -> Iterator[Image.Image | str]:
    """Yields the images of a row, or why one cannot be read."""
    for image in row["images"]:
        try:
            yield open_image(image)
        except UnreadableImage as error:
            yield str(error)


def image_lines(row: Row) -> list[str]:
    """Returns a line for each image of a row: its name and its size, or why it cannot be read."""
    opened = zip(row["images"], open_images(row), strict=True)
    return [it if isinstance(it, str) else f"{image_name(ref)} ({it.width} x {it.height})" for ref, it in opened]


def write_page(rows: Iterable[Row], processor: XGenMMProcessor, file: Path) -> None:
    """Writes rows as a web page: their images, then their texts with the targets in green."""
    parts = [STYLE]
    for row in rows:
        parts.append(f"<h3>{escape(row_name(row))}</h3>")
        for image in open_images(row):
            if isinstance(image, str):
                parts.append(f"<p>{escape(image)}</p>")
                continue
            image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
            parts.append(f'<img src="data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}">')
        for title, pieces in show_row(row, processor):
            marked = (f"<mark>{escape(text)}</mark>" if trained else escape(text) for text, trained in pieces)
            parts.append(f"<h4>{title}</h4><pre>{''.join(marked)}</pre>")
    write_text(file, "\n".join(parts))
