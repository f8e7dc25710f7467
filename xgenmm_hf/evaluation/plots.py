"""Images of results: a measure against the number of examples, and bars by category."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.conversion.files import replacing
from xgenmm_hf.evaluation.results import Result


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#3b6ea5", "#d1783a", "#4e9a52", "#8e5ba6", "#a33b4a", "#6b6b6b")


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("Plots need matplotlib: install it with pip install 'xgenmm-hf[eval]'.") from None
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save(figure: "Figure", file: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with replacing(file) as draft:
        figure.savefig(draft, format="png")


def main_measure(results: Sequence[Result]) -> str:
    """Returns the first measure that all results have.

    Args:
        results: Results of the same metric.

    Raises:
        ValueError: If they have none in common.
    """
    for name in results[0]["scores"]:
        if all(name in result["scores"] for result in results):
            return str(name)
    raise ValueError("The results have no measure in common: compare results of the same task.")


def label_of(result: Result, others: Sequence[Result] = ()) -> str:
    """Names a result by what tells it apart from others.

    Args:
        result: The result.
        others: All results that it stands among.

    Returns:
        The checkpoint's name, with the number of examples where those differ.
    """
    name = Path(result["checkpoint"]["model"]).name
    shots = {other["config"]["shots"] for other in others}
    return f"{name}, {result['config']['shots']} shots" if len(shots) > 1 else name


def plot_shots(results: Sequence[Result], file: Path, measure: str | None = None) -> None:
    """Draws a measure against the number of examples, a line for each task and checkpoint.

    Args:
        results: Results with different numbers of examples.
        file: The PNG file.
        measure: Name of the measure; None: the first that all have.
    """
    name = measure or main_measure(results)
    lines: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        how = " (retrieved)" if result["config"]["retrieval"] else ""
        label = f"{result['task']['name']}, {label_of(result)}{how}"
        lines.setdefault(label, []).append((result["config"]["shots"], result["scores"][name]))
    figure = new_figure(6.4, 4)
    axes = figure.add_subplot()
    for number, (label, points) in enumerate(lines.items()):
        axes.plot(*zip(*sorted(points), strict=True), marker="o", color=COLORS[number % len(COLORS)], label=label)
    axes.set(xlabel="examples in the prompt", ylabel=name, xticks=sorted({r["config"]["shots"] for r in results}))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, file)


def plot_categories(results: Sequence[Result], file: Path, measure: str | None = None) -> bool:
    """Draws a measure by category, a bar for each result.

    Args:
        results: Results of the same task.
        file: The PNG file.
        measure: Name of the measure; None: the first that all have.

    Returns:
        Whether there was a category to draw.
    """
    name = measure or main_measure(results)
    categories = list(dict.fromkeys(category for result in results for category in result["by_category"]))
    if not categories:
        return False
    figure = new_figure(6.4, 1.2 + 0.24 * len(categories) * (len(results) + 1))
    axes = figure.add_subplot()
    thickness = 0.8 / len(results)
    for number, result in enumerate(results):
        values: list[Any] = [result["by_category"].get(category, {}).get(name) for category in categories]
        places = [place + (number - (len(results) - 1) / 2) * thickness for place in range(len(categories))]
        label = f"{number + 1}: {label_of(result, results)}"
        # A category that a result does not have gets no bar.
        values = [math.nan if value is None else value for value in values]
        axes.barh(places, values, thickness, color=COLORS[number % len(COLORS)], label=label)
    axes.set(xlabel=name, yticks=range(len(categories)), yticklabels=[one or "(none)" for one in categories])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if len(results) > 1:
        # Above the plot: inside it the legend would hide bars.
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", fontsize="small")
    save(figure, file)
    return True
