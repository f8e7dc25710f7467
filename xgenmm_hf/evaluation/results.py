"""What an evaluation leaves: a JSON file that says everything, and a Markdown report for people."""

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xgenmm_hf import __version__
from xgenmm_hf.conversion.files import write_text
from xgenmm_hf.data.image_refs import image_name
from xgenmm_hf.evaluation.runner import Run, Settings
from xgenmm_hf.evaluation.samples import Scores, Task


FORMAT = "xgenmm-eval-1"
RESULT, REPORT = "results.json", "results.md"
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "pillow")
# From this score on a sample counts as right where only right and wrong are told apart.
RIGHT = 0.5

Result = dict[str, Any]


def describe_checkpoint(source: str, commit: str | None = None) -> dict[str, str]:
    """Says which checkpoint answered.

    Args:
        source: A checkpoint folder or a Hub repository.
        commit: The repository's commit.

    Returns:
        `model`, and `sha256` over the config and the weights of a folder, or the `commit` of a repository.
    """
    folder = Path(source)
    if not folder.is_dir():
        return {"model": source, **({"commit": commit} if commit else {})}
    digest = hashlib.sha256()
    files = [folder / "config.json", *sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])]
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 22):
                digest.update(block)
    return {"model": source, "sha256": digest.hexdigest()}


def library_versions() -> dict[str, str]:
    """Returns the versions of everything that may change an answer."""
    found = {"python": platform.python_version(), "xgenmm-hf": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def build_result(
    task: Task,
    run: Run,
    scores: Scores,
    settings: Settings,
    checkpoint: Mapping[str, str],
    *,
    files: Sequence[str] = (),
    device: str = "",
    processes: int = 1,
    published: Sequence[Mapping[str, Any]] = (),
) -> Result:
    """Puts everything about an evaluation into one object.

    Args:
        task: What was asked.
        run: What came back.
        scores: What the metric found, a score for each of `run.answered`.
        settings: How it was asked.
        checkpoint: What `describe_checkpoint` said.
        files: The task's files.
        device: Where the model ran, and in which dtype.
        processes: How many processes shared the work.
        published: Numbers to put beside, as `{"model", "metric", "value", "source"}` in the unit of the scores.

    Returns:
        What the JSON file holds.
    """
    records = [
        {
            "id": one.sample.id,
            "category": one.sample.category,
            "question": one.sample.text,
            "prompt": one.prompt,
            "images": [image_name(image) for image in one.sample.images],
            "shots": list(one.shots),
            "references": list(one.sample.references),
            "answer": one.answer,
            "score": finite(score),
        }
        for one, score in zip(run.answered, scores.per_sample, strict=True)
    ]
    config = {
        **asdict(settings),
        "form": settings.prompt_form,
        "max_new_tokens": settings.answer_tokens(task.prompt_style),
        "device": device,
        "processes": processes,
    }
    return {
        "format": FORMAT,
        "task": {"name": task.name, "kind": task.kind, "metric": task.metric, "style": task.prompt_style},
        "files": list(files),
        "checkpoint": dict(checkpoint),
        "config": config,
        "versions": library_versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "counts": {"evaluated": len(records), "problems": len(run.problems), "resumed": run.resumed},
        "scores": finite(scores.overall),
        "by_category": {name: finite(measures) for name, measures in scores.by_category.items()},
        "published": [dict(one) for one in published if one["metric"] in scores.overall],
        "samples": records,
        "problems": [asdict(problem) for problem in run.problems],
    }


def finite(score: Any) -> Any:
    """Returns a number, or several by name, with None for those that are undefined: JSON has no other word for it."""
    if isinstance(score, Mapping):
        return {name: finite(value) for name, value in score.items()}
    return float(score) if score is not None and math.isfinite(score) else None


def write_result(result: Result, folder: Path) -> None:
    """Writes the JSON file and the Markdown report; each appears whole or not at all.

    Args:
        result: What `build_result` returned.
        folder: Where to; files of an earlier evaluation in it are replaced.
    """
    texts = {
        REPORT: markdown_report(result),
        RESULT: json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    write_files(folder, texts)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes text files, each whole or not at all.

    Args:
        folder: Where to; it is made if it is not there.
        texts: Name -> text.
    """
    for file, text in texts.items():
        write_text(folder / file, text)


def read_result(file: str | os.PathLike[str]) -> Result:
    """Reads a result file.

    Args:
        file: The file, or the folder that holds it.

    Returns:
        What it holds.

    Raises:
        ValueError: If it is no result file.
    """
    path = Path(file) / RESULT if Path(file).is_dir() else Path(file)
    if not path.is_file():
        raise ValueError(f"There is no result file at {path}: give the {RESULT} that `xgenmm eval` wrote.")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): give the {RESULT} that `xgenmm eval` wrote.") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise ValueError(f"{path} is no result of `xgenmm eval` (its format is not {FORMAT!r}).")
    return result


def markdown_report(result: Result) -> str:
    """Writes the report: scores with the published ones below them, categories, settings, problems.

    Args:
        result: What `build_result` returned.

    Returns:
        Markdown.
    """
    task, counts = result["task"], result["counts"]
    blocks = [
        f"# {escape(task['name'])}",
        f"{counts['evaluated']:,} samples evaluated, {counts['problems']:,} problems; "
        f"{escape(result['checkpoint']['model'])}, {result['date']}.",
        markdown_table(["measure", "this run"], [[name, show(value)] for name, value in result["scores"].items()]),
    ]
    if result["published"]:
        header = ["measure", "model", "published", "this run", "source"]
        blocks += ["## Beside published numbers", markdown_table(header, published_rows(result))]
    if result["by_category"]:
        blocks += ["## By category", category_table(result)]
    blocks += ["## How", markdown_table(["setting", "value"], settings_rows(result))]
    if result["problems"]:
        lines = [f"- {escape('{source}, {where}: {reason}'.format(**one))}" for one in result["problems"]]
        blocks += [f"## Problems ({counts['problems']:,} rows that do not count)", "\n".join(lines)]
    return "\n\n".join(blocks) + "\n"


def published_rows(result: Result) -> list[list[str]]:
    """Returns measure, model, published number, this run's, and source of every published number."""
    return [
        [one["metric"], one["model"], show(one["value"]), show(result["scores"][one["metric"]]), one["source"]]
        for one in result["published"]
    ]


def category_table(result: Result) -> str:
    """Returns the table of the measures of each category, with its number of samples."""
    names = list(dict.fromkeys(name for scores in result["by_category"].values() for name in scores))
    sizes: dict[str, int] = {}
    for sample in result["samples"]:
        sizes[sample["category"]] = sizes.get(sample["category"], 0) + 1
    rows = [
        [category or "(none)", f"{sizes.get(category, 0):,}", *(show(scores.get(name)) for name in names)]
        for category, scores in result["by_category"].items()
    ]
    return markdown_table(["category", "samples", *names], rows)


def settings_rows(result: Result) -> list[list[str]]:
    """Returns name and value of everything that the numbers depend on."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    rows = [["checkpoint", " ".join(f"{name} {value}" for name, value in result["checkpoint"].items())]]
    rows += [[name, "-" if value is None else str(value)] for name, value in result["config"].items()]
    return [*rows, ["files", ", ".join(result["files"])], ["versions", versions]]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; what would break it is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(escape(cell) for cell in line)} |" for line in lines)


def escape(text: str) -> str:
    """Returns a text on one line, as plain text to Markdown."""
    # An underscore inside a word is plain text already.
    return re.sub(r"[\\`*<>\[\]|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(str(text).split()))


def show(value: float | None) -> str:
    """Returns a number as it is printed."""
    return "-" if value is None else f"{value:,.0f}" if isinstance(value, int) else f"{value:.4f}"
