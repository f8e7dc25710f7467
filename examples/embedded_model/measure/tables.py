"""Every measurement of `xgenmm eval` on the embedded model, and a report of them.

    python -m embedded_model.measure.tables --work runs/eval --report docs/evaluation

Data about drawn images is written first (see `drawn_tasks`); then each row of `ENTRIES` is one evaluation, as
`xgenmm eval` makes it. An interrupted report goes on where it stopped.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedded_model.measure.commands import command_given
from embedded_model.measure.plots import plot_shots
from embedded_model.measure.tasks import WRITERS
from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL
from xgenmm_hf.evaluation.settings import AskSettings


if TYPE_CHECKING:
    from xgenmm_hf.evaluation.results import Result
    from xgenmm_hf.evaluation.samples import Task
    from xgenmm_hf.inference.loading import Loaded

# What `make eval` gives.
DEFAULTS = ("--work", "runs/eval", "--report", "docs/evaluation")
# What reports call the models that every installation has elsewhere.
EMBEDDED = {TINY_MODEL: "xgenmm_hf.TINY_MODEL", TINY_BASE_MODEL: "xgenmm_hf.TINY_BASE_MODEL"}
EXPLAINED = (("1-shapes.png", "What color is the star?"), ("3-banner.png", "Where is the heart?"))


@dataclass(frozen=True)
class Entry:
    """One evaluation of the report.

    Args:
        name: Its folder.
        title: What the report's table calls it.
        data: What is asked, a key of `WRITERS`.
        count: How much of it is written.
        kind: The kind of task.
        settings: How it is asked.
    """

    name: str
    title: str
    data: str
    count: int
    kind: str
    settings: AskSettings


QUESTIONS = 800


def _few_shot(shots: int) -> Entry:
    title = f"questions, base form, {shots} examples"
    settings = AskSettings(form="base", shots=shots, limit=150)
    return Entry(f"questions_base_{shots}", title, "questions", QUESTIONS, "vqav2", settings)


# The embedded model has never seen the suffix that asks large models for short answers.
_PLAIN = AskSettings(batch_size=16, suffix="")
ENTRIES = (
    Entry("questions", "questions about one picture", "questions", QUESTIONS, "vqav2", _PLAIN),
    _few_shot(0),
    _few_shot(4),
    _few_shot(8),
    Entry(
        "captions",
        "captions",
        "captions",
        120,
        "coco_captions",
        AskSettings(batch_size=16, max_new_tokens=112, suffix="", instruction="Describe the picture."),
    ),
    Entry("presence", "probing for what is not there", "presence", 300, "own", _PLAIN),
    Entry("guard", "safety", "guard", 240, "vlguard", AskSettings(batch_size=16, max_new_tokens=24, suffix="")),
    Entry("pairs", "questions about two pictures", "pairs", 400, "own", _PLAIN),
)
_PAGE = """\
# The embedded model, measured with `xgenmm eval`

`{command}` wrote this on {date}{took} on a {machine}.
Model: `{model}`, sha256 of config and weights `{sha256}`; in the base form `{base}`, `{base_sha256}`; {versions}.

{table}

Shares from 0 to 1; CIDEr as papers state it, divided by 100. Images, questions and answers are drawn by the package
(`embedded_model.measure.tasks`), of scenes that were never trained on, and written in the formats of VQAv2, COCO
captions and VLGuard, or as rows of a question and an answer; the files and every answer are in `runs/eval` after the
run. {problems}

## Probing: accuracy after things that are there and after absent ones

{presence}
## Safety, by subset

{guard}
## Examples in the prompt

![VQA accuracy against the number of examples](shots.png)

The same {shared} questions at every number of examples.
The base model's last training step is on documents of two to five images.

## Where it looks

{explained}
What is bright is what the answer's attention goes to (`xgenmm explain`).

All numbers: [results.json](results.json).
"""


def write_data(entries: Sequence[Entry], folder: Path, scale: float) -> dict[str, list[Path]]:
    """Writes the data of entries.

    Args:
        entries: The entries.
        folder: Where to; each kind of data has a folder in it.
        scale: Factor on its size.

    Returns:
        The files by the name of their writer; "examples" are always among them.
    """
    counts = {"examples": 200, **{entry.data: entry.count for entry in entries}}
    files = {}
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        files[name] = WRITERS[name](folder / name, max(12, round(count * scale)))
    return files


def load_entry(entry: Entry, files: Mapping[str, list[Path]]) -> "tuple[Task, Task | None]":
    """Reads an entry's task, and the samples that its examples come from.

    Args:
        entry: The evaluation.
        files: What `write_data` returned.

    Returns:
        The task and the support; None without examples.
    """
    from xgenmm_hf.evaluation.tasks import load_task

    name = entry.title.split(",")[0]
    task = load_task(entry.kind, files[entry.data], name=name)
    return task, load_task(entry.kind, files["examples"], name="examples") if entry.settings.shots else None


def run_entry(loaded: "Loaded", source: str, entry: Entry, files: Mapping[str, list[Path]], work: Path) -> "Result":
    """Makes one evaluation, or goes on with it.

    Args:
        loaded: The model.
        source: Where it was loaded from.
        entry: The evaluation.
        files: What `write_data` returned.
        work: Folder of the evaluations.

    Returns:
        The result; an embedded model goes by its name in it.

    Raises:
        ValueError: If nothing could be asked.
    """
    from xgenmm_hf.evaluation.pipeline import evaluate_task

    task, support = load_entry(entry, files)
    names = [os.fspath(file) for file in files[entry.data]]
    output, settings = work / entry.name, entry.settings
    result = evaluate_task(loaded, task, output, settings, source=source, files=names, support=support)
    if result is None:
        raise ValueError(f"{entry.title} was not evaluated: this command runs in one process.")
    result["checkpoint"]["model"] = EMBEDDED.get(source, result["checkpoint"]["model"])
    return result


def summary_table(results: Mapping[str, "Result"]) -> str:
    """Returns a Markdown table, a row an evaluation with all its measures."""
    from xgenmm_hf.evaluation.results import markdown_table, show

    rows = []
    titles = {entry.name: entry.title for entry in ENTRIES}
    for name, result in results.items():
        measures = ", ".join(f"{measure} {show(value)}" for measure, value in result["scores"].items())
        rows.append([titles[name], result["task"]["kind"], f"{result['counts']['evaluated']:,}", measures])
    return markdown_table(["what", "kind", "samples", "measures"], rows)


def explain_images(loaded: "Loaded", folder: Path) -> str:
    """Writes overlays of two of the package's images.

    Args:
        loaded: The model.
        folder: Where to.

    Returns:
        Markdown that shows them.
    """
    from PIL import Image

    from xgenmm_hf.explain.attention import explain_answer
    from xgenmm_hf.explain.overlay import draw_overlay

    lines = []
    for name, question in EXPLAINED:
        with Image.open(Path(TINY_MODEL).parent / "pictures" / name) as opened:
            image = opened.convert("RGB")
        found = explain_answer(loaded, image, question)
        drawn = draw_overlay(image, found.pixels, found.cut)
        both = Image.new("RGB", (image.width, 2 * image.height + 8), "white")
        if image.width < image.height * 2:
            both = Image.new("RGB", (2 * image.width + 8, image.height), "white")
        both.paste(image, (0, 0))
        both.paste(drawn, (both.width - image.width, both.height - image.height))
        both.thumbnail((640, 640))
        file = f"explain-{Path(name).stem}.png"
        both.save(folder / file)
        lines.append(f"*{question}* {found.answer}\n\n![{question}]({file})\n")
    return "\n".join(lines)


def write_report(results: Mapping[str, "Result"], facts: Mapping[str, Any], explained: str, folder: Path) -> None:
    """Writes README.md, results.json and the plot.

    Args:
        results: The evaluations by name.
        facts: `command`, `date`, `machine` and `took`, how long it took or nothing.
        explained: Markdown about the overlays.
        folder: Where to.
    """
    from xgenmm_hf.evaluation.results import category_table, write_files

    first = results["questions"]
    base = [result for name, result in results.items() if name.startswith("questions_base_")]
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("xgenmm-hf", "transformers", "torch"))
    problems = sum(result["counts"]["problems"] for result in results.values())
    page = _PAGE.format(
        **facts,
        model=first["checkpoint"]["model"],
        sha256=first["checkpoint"]["sha256"][:12],
        base=base[0]["checkpoint"]["model"],
        base_sha256=base[0]["checkpoint"]["sha256"][:12],
        versions=versions,
        table=summary_table(results),
        problems=f"{problems} rows could not be asked." if problems else "No row was left out.",
        presence=category_table(results["presence"]) + "\n",
        guard=category_table(results["guard"]) + "\n",
        shared=base[0]["counts"]["evaluated"],
        explained=explained,
    )
    kept = ("task", "config", "counts", "scores", "by_category", "checkpoint", "versions", "date")
    numbers = {name: {part: result[part] for part in kept} for name, result in results.items()}
    write_files(
        folder, {"README.md": page, "results.json": json.dumps({**facts, "results": numbers}, indent=1) + "\n"}
    )
    plot_shots(base, folder / "shots.png", "vqa_accuracy")


def main(
    work: Annotated[Path, typer.Option(help="Folder of the data and of all answers.")],
    report: Annotated[Path, typer.Option(help="Folder of the report.")],
    model: Annotated[
        str, typer.Option(help="A checkpoint of the embedded model's kind.", show_default="the embedded model")
    ] = TINY_MODEL,
    base: Annotated[
        str,
        typer.Option(help="The one that is asked in the base form.", show_default="the embedded base model"),
    ] = TINY_BASE_MODEL,
    scale: Annotated[float, typer.Option(help="Factor on the number of questions, for a quick try.")] = 1.0,
) -> None:
    """Measures the embedded model and writes the report."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.inference.loading import load

    start = time.monotonic()
    hide_loading_bars()
    files, results = write_data(ENTRIES, work / "data", scale), {}
    forms = {"chat": (load(model), model), "base": (load(base), base)}
    for entry in ENTRIES:
        results[entry.name] = run_entry(*forms[entry.settings.form or "chat"], entry, files, work)
        logging.info("%s: %s", entry.title, results[entry.name]["scores"])
    report.mkdir(parents=True, exist_ok=True)
    explained = explain_images(forms["chat"][0], report)
    minutes = (time.monotonic() - start) / 60
    whole = not any(result["counts"]["resumed"] for result in results.values())
    facts = {
        "command": command_given("embedded_model.measure.tables", "eval", DEFAULTS),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "took": f", in {minutes:.1f} minutes," if whole else "",
    }
    write_report(results, facts, explained, report)


if __name__ == "__main__":
    typer.run(main)
