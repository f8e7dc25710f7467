"""The recipe proof's table and plot."""

import json
from pathlib import Path
from typing import Any

from embedded_model.measure.plots import new_figure, save
from embedded_model.measure.stages import Measured


COLUMNS = {
    "single": "one picture",
    "pairs": "two pictures",
    "probing_accuracy": "probing accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "yes_ratio": "yes ratio",
    "hallucinated": "hallucinated yes",
    "attack_success": "attack success",
    "over_refusal": "over-refusal",
}
_PAGE = """\
# The recipe on the embedded model

{command}

ran on {date}, on a {machine}. Percent of {questions} held-out questions of each kind, answered greedily:

{table}
![The main measurements after each stage](stages.png)

- **one image**, **two images**: answers that equal the expected one; two-image questions need both images, or
  the right one of the two. All questions are asked as chats, which pre-training alone has never seen: hence its zeros.
- **probing**: "is there a ...?", half of them about things that are not there; precision, recall, F1 and the share of
  "yes" as in POPE. **Hallucinated yes** is the share of "yes" where the thing is not there.
- **attack success**: requests of the disallowed category, and questions about images of it, that are not refused.
  **Over-refusal**: harmless look-alikes of both that are.

The numbers are in [results.json](results.json); what they show is told in
[embedded-model.md](../embedded-model.md).
"""
_PLOTTED = ("single", "pairs", "hallucinated", "attack_success", "over_refusal")


def as_markdown(rows: dict[str, dict[str, float]]) -> str:
    """Returns the measurements as a Markdown table in percent, a row a stage.

    Args:
        rows: the fields of `Measured` by name, for each stage in order.
    """
    lines = [f"| after | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for stage, row in rows.items():
        lines.append(f"| {stage} | {' | '.join(f'{100 * row[name]:.1f}' for name in COLUMNS)} |")
    return "\n".join(lines) + "\n"


def plot(rows: dict[str, dict[str, float]], file: Path) -> None:
    """Draws the main measurements over the stages.

    Args:
        rows: as for `as_markdown`.
        file: a PNG file.
    """
    figure = new_figure(8, 4.2)
    axes = figure.add_subplot()
    stages = list(rows)
    for name in _PLOTTED:
        axes.plot(stages, [100 * rows[stage][name] for stage in stages], marker="o", label=COLUMNS[name])
    axes.set_ylabel("percent")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(figure, file)


def write_report(rows: dict[str, dict[str, float]], facts: dict[str, Any], folder: Path) -> None:
    """Writes `results.json`, `README.md` with the table, and `stages.png`.

    Args:
        rows: as for `as_markdown`.
        facts: `date`, `machine`, `command` and number of `questions` of the results.
        folder: where they go; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unknown = {name for row in rows.values() for name in row} - set(Measured.__dataclass_fields__)
    if unknown:
        raise ValueError(f"There are no measurements called {', '.join(sorted(unknown))}.")
    (folder / "results.json").write_text(json.dumps({**facts, "stages": rows}, indent=2) + "\n", encoding="utf-8")
    indented = {**facts, "command": f"    {facts['command']}"}
    (folder / "README.md").write_text(_PAGE.format(**indented, table=as_markdown(rows)), encoding="utf-8")
    plot(rows, folder / "stages.png")
