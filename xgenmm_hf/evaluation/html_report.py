"""Samples to look at: one HTML file with images, prompts, answers and references, filterable and self-contained."""

import base64
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.data.image_refs import UnreadableImage, image_name, open_image
from xgenmm_hf.evaluation.results import RIGHT, Result, show, write_files
from xgenmm_hf.evaluation.samples import Sample


TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "report.html"
REPORT = "report.html"
THUMBNAIL = 320
JPEG_QUALITY = 80
# Of long captions or ten annotators, what a card shows.
MOST_REFERENCES = 10


def write_html(
    result: Result, samples: Sequence[Sample], folder: Path, *, count: int | None = None, seed: int = 0
) -> Path:
    """Writes the report.

    Args:
        result: What `build_result` returned.
        samples: The task's samples, for their images.
        folder: Where to.
        count: Show this many samples, drawn at random; None: all.
        seed: Seed of the draw.

    Returns:
        The file.
    """
    write_files(folder, {REPORT: render_html(result, samples, count=count, seed=seed)})
    return folder / REPORT


def render_html(result: Result, samples: Sequence[Sample], *, count: int | None = None, seed: int = 0) -> str:
    """Renders the report; every text in it is escaped, every image embedded as a thumbnail.

    Args:
        result: What `build_result` returned.
        samples: The task's samples, for their images.
        count: Show this many samples, drawn at random; None: all.
        seed: Seed of the draw.

    Returns:
        HTML.
    """
    from jinja2 import Environment, StrictUndefined

    records = result["samples"]
    if count is not None and count < len(records):
        chosen = sorted(random.Random(seed).sample(range(len(records)), count))
        records = [records[place] for place in chosen]
    images = {sample.id: sample.images for sample in samples}
    categories = sorted({record["category"] for record in records})
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    counts, model = result["counts"], result["checkpoint"]["model"]
    return template.render(
        title=f"{result['task']['name']}: samples",
        subtitle=f"{len(records):,} of {counts['evaluated']:,} samples, {counts['problems']:,} problems; {model}, "
        f"{result['date']}",
        scores=[(name, show(value)) for name, value in result["scores"].items()],
        threshold=RIGHT,
        categories=categories if len(categories) > 1 else [],
        cards=[_card(record, images.get(record["id"], ()), categories) for record in records],
    )


def _card(record: Mapping[str, Any], images: Sequence[Any], categories: Sequence[str]) -> dict[str, Any]:
    """Returns what the template shows of a sample."""
    return {
        **{name: record[name] for name in ("id", "category", "question", "answer", "prompt")},
        "reference": _references(record["references"]),
        "score": "undefined" if record["score"] is None else f"{record['score']:.2f}",
        "outcome": "right" if (record["score"] or 0.0) >= RIGHT else "wrong",
        "category_number": categories.index(record["category"]) + 1,
        "images": [thumbnail(image) for image in images],
    }


def _references(references: Sequence[str]) -> str:
    """Returns references on a line each, with how many annotators gave one."""
    counted = Counter(references).most_common(MOST_REFERENCES)
    return "\n".join(text if number == 1 else f"{text} ({number} times)" for text, number in counted)


def thumbnail(ref: Any) -> dict[str, Any]:
    """Makes a small copy of an image that HTML can hold.

    Args:
        ref: An image reference, or an image in memory.

    Returns:
        `name`, and `data` (a data URL) with `width` and `height` in pixels; `data` is empty if it cannot be read.
    """
    name = image_name(ref)
    try:
        image = open_image(ref)
    except UnreadableImage:
        return {"name": name, "data": "", "width": 0, "height": 0}
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"name": name, "data": f"data:image/jpeg;base64,{data}", "width": image.width, "height": image.height}
