"""A dry run of a mixture: what it holds, what its rows take, and rows as a person reads them; no model is loaded."""

import json
import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from xgenmm_hf.conversion.files import replacing, write_json
from xgenmm_hf.data.encoding import WRITTEN_PARTS, RenderedText, render_texts, row_name
from xgenmm_hf.data.image_refs import UnreadableImage, image_name, image_size, open_image
from xgenmm_hf.data.lengths import measure_rows
from xgenmm_hf.data.mixture import Mixture, sample_indices
from xgenmm_hf.data.rows import Row
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


REPORT, PROBLEMS, HISTOGRAM = "report.json", "problems.jsonl", "lengths.png"
NEEDED = {"datasets": "datasets", "yaml": "pyyaml", "matplotlib": "matplotlib"}
MEASURES = ("text_tokens", "image_tokens", "tokens", "tiles")
BATCH_ROWS = 64
BINS = 40
WIDTH, IMAGE_SIDE, MARGIN, FONT = 900, 260, 12, 15
COLORS = {True: "#0a7d32", False: "#555555"}


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

    Rows with an image whose header cannot be read count as `unreadable`, repeats once, and in no other figure.
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
    rows: Any, processor: XGenMMProcessor, image_aspect_ratio: str | None, progress: Callable[[int, int], None]
) -> tuple[Any, list[dict[str, str]]]:
    """Measures rows; those with an unreadable image are set apart."""
    import pandas as pd

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


class ShownText(NamedTuple):
    """A rendered text of a row: its title where a row has several, and (text, whether it is trained on) in order."""

    title: str
    pieces: list[tuple[str, bool]]


def show_row(row: Row, processor: XGenMMProcessor) -> list[ShownText]:
    """Renders a row and marks its targets."""
    titles = ("chosen", "rejected") if row.get("chosen") else ("",)
    return [ShownText(title, _pieces(text)) for title, text in zip(titles, render_texts(processor, row), strict=True)]


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


def draw_row(row: Row, processor: XGenMMProcessor, file: Path) -> None:
    """Draws a row as a PNG file: its images, then its text with the targets in green."""
    font: Any = ImageFont.load_default(FONT)
    opened = list(open_images(row))
    lines = [(row_name(row), "black"), *((reason, "red") for reason in opened if isinstance(reason, str))]
    for shown in show_row(row, processor):
        lines += [(f"-- {shown.title}", "black")] if shown.title else []
        for text, trained in shown.pieces:
            for line in text.splitlines() or [""]:
                wrapped = textwrap.wrap(line, WIDTH // (FONT // 2), drop_whitespace=False) or [""]
                lines += [(part, COLORS[trained]) for part in wrapped]
    images = [image for image in opened if not isinstance(image, str)]
    per_line, cell, step = (WIDTH - MARGIN) // (IMAGE_SIDE + MARGIN), IMAGE_SIDE + MARGIN, FONT + 5
    top = MARGIN + -(-len(images) // per_line) * cell
    page = Image.new("RGB", (WIDTH, top + len(lines) * step + MARGIN), "white")
    for index, image in enumerate(images):
        image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
        page.paste(image, (MARGIN + index % per_line * cell, MARGIN + index // per_line * cell))
    draw = ImageDraw.Draw(page)
    for index, (text, color) in enumerate(lines):
        draw.text((MARGIN, top + index * step), text, fill=color, font=font)
    page.save(file, format="PNG")
