"""Figures of reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from xgenmm_hf.conversion.files import replacing


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with replacing(file) as draft:
        figure.savefig(draft, format="png")


def plot_shots(results: Sequence[Mapping[str, Any]], file: Path, measure: str) -> None:
    """Draws a measure against the number of examples.

    Args:
        results: Results with different numbers of examples.
        file: The PNG file.
        measure: Name of the measure.
    """
    points = sorted((result["config"]["shots"], result["scores"][measure]) for result in results)
    figure = new_figure(6.4, 4)
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True), marker="o")
    axes.set(xlabel="examples in the prompt", ylabel=measure, xticks=[shots for shots, _ in points])
    axes.grid(alpha=0.3)
    save(figure, file)
