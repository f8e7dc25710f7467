"""``xgenmm bench``: how fast this machine runs a model, as a share of what it can do."""

import json
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xgenmm_hf.cli.convert import Dtype


if TYPE_CHECKING:
    from bench.shapes import Setting


class Preset(str, Enum):
    """Shapes of models."""

    tiny = "tiny"
    slice_4b = "4b-slice"
    full_4b = "4b"
    full_14b = "14b"


def bench(
    preset: Annotated[
        Preset, typer.Option(help="Shape of the model, with random weights; 4b-slice: 4B's widths, two layers a part.")
    ] = Preset.slice_4b,
    device: Annotated[str, typer.Option(help="A torch device such as cpu or cuda:0, or auto.")] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Dtype; auto: float32 on the CPU, else bfloat16.")] = Dtype.auto,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART", help="Measure only this part (repeat it); default: all. A wrong name lists them."
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each figure at most; the median counts.")] = 5,
    budget: Annotated[float, typer.Option(min=0, help="Seconds after which a figure starts no further run.")] = 12.0,
    compiled: Annotated[bool, typer.Option("--compile", help="Also measure compiled decode steps.")] = False,
    curves: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Measure how cost grows instead, and write plots here.")
    ] = None,
    document: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Measure everything; write a page with plots and JSON here.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Measure speed and memory of every part against the machine's limits."""
    if document is not None and (only or curves is not None):
        raise ValueError("--document measures everything: leave --only and --curves out.")
    from rich.console import Console

    from bench.report import as_markdown, as_table, write_json

    setting = make_setting(preset, device, dtype, runs, budget, compiled)
    with Console(stderr=True).status("measuring") as status:
        record = measure(setting, only or [], curves, document, lambda name: status.update(f"measuring {name}"))
    if json_file is not None:
        write_json(record, Path(json_file))
    if curves is not None:
        print(json.dumps({"plots": record["plots"]}))
    elif markdown:
        print(as_markdown(record), end="")
    else:
        # Piped, the table keeps its full width.
        console = Console() if sys.stdout.isatty() else Console(width=200)
        console.print(as_table(record))


def measure(
    setting: "Setting", only: list[str], curves: str | None, document: str | None, on_part: Callable[[str], None]
) -> dict[str, Any]:
    """Runs what was asked for: parts, curves, or both as a page.

    Args:
        setting: What is measured, where and how.
        only: Parts, where not all of them.
        curves: Folder of the plots, where the curves are measured.
        document: Folder of the page, where everything is measured.
        on_part: Called with the name of each part before it starts.

    Returns:
        The record.
    """
    if curves is not None:
        from bench.curves import draw_curves

        return draw_curves(setting, Path(curves), on_part)
    if document is not None:
        from bench.document import write_document

        return write_document(setting, Path(document), on_part)
    from bench.runner import run_bench

    return run_bench(setting, only, on_part)


def make_setting(preset: Preset, device: str, dtype: Dtype, runs: int, budget: float, compiled: bool) -> "Setting":
    """Turns options into a setting.

    Args:
        preset: Shape of the model.
        device: Name of a device, or auto.
        dtype: Dtype, or auto.
        runs: Timed runs of each figure.
        budget: Seconds for each figure.
        compiled: Whether compiled decode steps are measured.

    Returns:
        The setting.

    Raises:
        ValueError: If the device cannot be used.
    """
    import torch

    from bench.shapes import Setting
    from bench.timing import Effort
    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.inference.loading import DTYPES, pick_device

    hide_loading_bars()
    place = pick_device(device)
    chosen = DTYPES.get(dtype.value) or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    return Setting(preset.value, place, chosen, Effort(runs=runs, budget=budget), compiled=compiled)
