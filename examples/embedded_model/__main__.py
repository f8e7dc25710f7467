"""Takes the embedded model through the whole recipe and reports what each stage brings.

    python -m embedded_model --work runs/recipe

Finished stages are not run again: an interrupted run resumes where it stopped.
"""

import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from embedded_model.measure.table import Numbers, measure_once
from embedded_model.stages import BASE, BASE_FOLLOWS, STAGES, run_stage


# What is measured after each stage: a column's title, the set, and which of its numbers.
COLUMNS = {
    "one image": ("known wordings", "all"),
    "two images": ("two images", "all"),
    "presence": ("presence", "all"),
    "hallucinated": ("presence", "hallucinated"),
    "attack success": ("attacks", "all"),
    "over-refusal": ("harmless look-alikes", "all"),
}


def keep_settings(work: Path, settings: dict[str, Any]) -> None:
    """Writes down the settings of a run, or compares them with those that it was begun with.

    Args:
        work: Folder of the run.
        settings: JSON-ready values by name.

    Raises:
        ValueError: If the run was begun with others.
    """
    file = work / "settings.json"
    if not file.exists():
        file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    begun = json.loads(file.read_text(encoding="utf-8"))
    differing = [f"{name} {begun.get(name)}, now {now}" for name, now in settings.items() if begun.get(name) != now]
    if differing:
        raise ValueError(f"{work} was begun with other settings ({'; '.join(differing)}): use another --work.")


def measure_stage(checkpoint: Path, count: int, work: Path) -> Numbers:
    """Measures a checkpoint: a number per column of the report."""
    results = {name: measure_once(str(checkpoint), name, count, work / "measured") for name, _ in COLUMNS.values()}
    return {title: results[name][part] for title, (name, part) in COLUMNS.items()}


def as_markdown(rows: dict[str, Numbers]) -> str:
    """Returns the measurements as a Markdown table in percent, a row per stage."""
    lines = [f"| after | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    lines += [
        f"| {stage} | {' | '.join(f'{100 * row[title]:.1f}' for title in COLUMNS)} |" for stage, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def main(
    work: Annotated[Path, typer.Option(help="Folder for data, checkpoints and measurements.")],
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from; it is trained first if none is given.")
    ] = None,
    first: Annotated[str, typer.Option(help="Stage to start with, for a --start that was trained before.")] = STAGES[
        0
    ].name,
    questions: Annotated[int, typer.Option(min=0, help="Questions of each set after a stage; 0: none.")] = 500,
    scale: Annotated[float, typer.Option(help="Factor on the data of every stage, for a quick try.")] = 1.0,
    max_steps: Annotated[int | None, typer.Option(help="Steps of every stage, for a quick try.")] = None,
) -> None:
    """Runs the recipe: hours on two cores."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    names = [stage.name for stage in STAGES]
    if first not in names:
        raise typer.BadParameter(f"There is no stage {first!r}; there are {', '.join(names)}.")
    work.mkdir(parents=True, exist_ok=True)
    given = {"scale": scale, "max_steps": max_steps, "start": None if start is None else str(start.resolve())}
    try:
        keep_settings(work, {**given, "first": first})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if start is None:
        from embedded_model.parts.build import train_embedded

        start = work / "start"
        if not (start / "config.json").exists():
            train_embedded(start, work / "start.stages", scale=scale)
    overrides = () if max_steps is None else ("--max_steps", str(max_steps))
    checkpoint, rows = start, {}
    for stage in STAGES[names.index(first) :]:
        checkpoint = run_stage(stage, checkpoint, work, scale, overrides)
        if questions and stage.verb != "pretrain":
            rows[stage.name] = measure_stage(checkpoint, questions, work)
            (work / "stages.md").write_text(as_markdown(rows), encoding="utf-8")
            logging.info("after %s:\n%s", stage.name, as_markdown(rows))
        if stage.name == BASE_FOLLOWS:
            run_stage(BASE, checkpoint, work, scale, overrides)
    logging.info("The instruct model is %s, the base model %s.", checkpoint, work / BASE.name)


if __name__ == "__main__":
    typer.run(main)
