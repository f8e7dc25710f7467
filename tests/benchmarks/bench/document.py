"""Everything in one call: the table and the curves as one Markdown page with plots, and the figures as JSON."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.curves import draw_curves
from bench.report import as_markdown, title_of, write_json
from bench.runner import run_bench
from bench.shapes import Setting
from xgenmm_hf.evaluation.results import write_files


def write_document(setting: Setting, folder: Path, on_part: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measures all parts and all curves and writes them into a folder.

    Args:
        setting: What is measured, where and how.
        folder: Where `PRESET-DEVICE.md`, `PRESET-DEVICE.json` and the folder `PRESET-DEVICE/` of plots go.
        on_part: Called with the name of each part before it starts.

    Returns:
        The record of the parts, with that of the curves in `curves` and the files in `plots`.
    """
    name = f"{setting.preset}-{setting.device.type}"
    record = run_bench(setting, (), on_part)
    write_json(record, folder / f"{name}.json")  # there even if the curves fail
    curves = draw_curves(setting, folder / name, on_part)
    record = {**record, "curves": curves["rows"], "plots": [f"{name}/{Path(file).name}" for file in curves["plots"]]}
    write_json(record, folder / f"{name}.json")
    write_files(folder, {f"{name}.md": as_page(record)})
    return record


def as_page(record: dict[str, Any]) -> str:
    """Returns a run with its curves as a Markdown page.

    Args:
        record: What `write_document` wrote.

    Returns:
        The page.
    """
    machine = record["machine"]
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    title, limits = title_of(record).splitlines()
    load = "" if machine["load"] is None else f"; load average {machine['load'][0]} when it was written"
    lines = [
        f"# {title}",
        "",
        f"{machine['date']}; Python {machine['python']}, {libraries}{load}. {limits[0].upper()}{limits[1:]}.",
        "",
        as_markdown(record),
        "## Curves",
        "",
        *[f"![{Path(file).stem}]({file})" for file in record["plots"]],
        "",
        "| curve | value | seconds | predicted | of limit |",
        "|---|---|---|---|---|",
        *[
            f"| {row['curve']} | {row['value']} | {row['seconds']:.4g} | {row['predicted']:.4g} | {row['share']:.0%} |"
            for row in record["curves"]
        ],
    ]
    return "\n".join(lines) + "\n"
