"""Takes the embedded model through the whole recipe and reports what each stage brings.

    python -m embedded_model --work runs/recipe --report examples/embedded_model/results

What is done already is found and not done again: an interrupted proof goes on where it stopped.
"""

import json
import logging
import os
import platform
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from embedded_model.measure.commands import command_given
from embedded_model.measure.report import as_markdown, write_report
from embedded_model.measure.stages import as_row, measure
from embedded_model.stages import BASE, BASE_FOLLOWS, STAGES, run_stage
from xgenmm_hf.errors import friendly_errors


# What `make recipe` gives.
DEFAULTS = ("--work", "runs/recipe", "--report", "examples/embedded_model/results")


def measure_once(name: str, checkpoint: Path, work: Path, count: int) -> dict[str, float]:
    """Measures a checkpoint, or reads what was measured before.

    Args:
        name: the stage's name.
        checkpoint: its result.
        work: folder of the proof.
        count: questions of each set.

    Returns:
        The fields of `Measured` by name.
    """
    file = work / f"{name}.measured.json"
    if not file.exists():
        from xgenmm_hf.inference.loading import load

        file.write_text(json.dumps(as_row(measure(load(str(checkpoint)), count))), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def keep_settings(work: Path, settings: dict[str, Any]) -> None:
    """Writes down what a proof is made with, or compares it with what was written when it was begun.

    Args:
        work: folder of the proof.
        settings: JSON-ready values by name.

    Raises:
        ValueError: if the proof was begun with others.
    """
    file = work / "settings.json"
    if not file.exists():
        file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    begun = json.loads(file.read_text(encoding="utf-8"))
    differing = [f"{name} {begun.get(name)}, now {now}" for name, now in settings.items() if begun.get(name) != now]
    if differing:
        raise ValueError(f"{work} was begun with other settings ({'; '.join(differing)}): use another --work.")


@friendly_errors
def main(
    work: Annotated[Path, typer.Option(help="Folder for data, checkpoints and measurements.")],
    report: Annotated[Path, typer.Option(help="Folder for the table and the plot.")],
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from; it is trained first if none is given.")
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="Questions of each set.")] = 1000,
    scale: Annotated[float, typer.Option(help="Factor on the data of every stage, for a quick try.")] = 1.0,
) -> None:
    """Runs the recipe proof: about two hours on two cores."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    work.mkdir(parents=True, exist_ok=True)
    keep_settings(
        work, {"questions": questions, "scale": scale, "start": None if start is None else str(start.resolve())}
    )
    if start is None:
        from embedded_model.parts.build import train_embedded

        start = work / "start"
        if not (start / "config.json").exists():
            train_embedded(start, work / "start.stages", scale=scale)
    checkpoint, rows = start, {}
    for stage in STAGES:
        checkpoint = run_stage(stage, checkpoint, work, scale)
        rows[stage.name] = measure_once(stage.name, checkpoint, work, questions)
        logging.info("after %s:\n%s", stage.name, as_markdown({stage.name: rows[stage.name]}))
        if stage.name == BASE_FOLLOWS:
            run_stage(BASE, checkpoint, work, scale)
    facts = {
        "date": date.today().isoformat(),
        "command": command_given("embedded_model", "recipe", DEFAULTS),
        "machine": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "questions": questions,
        "scale": scale,
    }
    write_report(rows, facts, report)


if __name__ == "__main__":
    typer.run(main)
