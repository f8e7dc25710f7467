"""What an evaluation leaves: a JSON file that says everything, and a Markdown report for people."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.files import read_json, write_text
from xgenmm_hf.data.image_refs import image_name
from xgenmm_hf.evaluation.runner import Run
from xgenmm_hf.evaluation.samples import Scores, Task
from xgenmm_hf.evaluation.settings import AskSettings
from xgenmm_hf.inference.provenance import library_versions


FORMAT = "xgenmm-eval-1"
RESULT, REPORT = "results.json", "results.md"

Result = dict[str, Any]


def build_result(
    task: Task,
    run: Run,
    scores: Scores,
    settings: AskSettings,
    facts: Mapping[str, Any],
    *,
    device: str = "",
    processes: int = 1,
) -> Result:
    """Puts everything about an evaluation into one object."""
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
    metric = {"metric": task.metric, "style": task.prompt_style, **({"rule": scores.rule} if scores.rule else {})}
    return {
        "format": FORMAT,
        "task": {"name": task.name, "kind": task.kind, **metric},
        **facts,
        "config": config,
        "versions": library_versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "counts": {"evaluated": len(records), "problems": len(run.problems), "resumed": run.resumed},
        "scores": finite(scores.overall),
        "by_category": {name: finite(measures) for name, measures in scores.by_category.items()},
        "samples": records,
        "problems": [asdict(problem) for problem in run.problems],
    }


def other_prompt(folder: Path, prompt: Mapping[str, Any]) -> str:
    """Says how a prompt differs from that of the results which a folder holds."""
    try:
        before = read_result(folder)
    except ValueError:
        return ""
    parts = [name for name in prompt if before.get("prompt", {}).get(name) != prompt[name]]
    if not parts:
        return ""
    return (
        f"The results of {before['date']} in {folder} were asked with another prompt ({', '.join(parts)}); they are "
        "replaced, and their numbers do not compare with the new ones."
    )


def finite(score: Any) -> Any:
    """Returns a number, or several by name, with None for those that are undefined: JSON has no other word for it."""
    if isinstance(score, Mapping):
        return {name: finite(value) for name, value in score.items()}
    return float(score) if score is not None and math.isfinite(score) else None


def write_result(result: Result, folder: Path) -> None:
    """Writes the JSON file and the Markdown report; each appears whole or not at all."""
    document = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_files(folder, {REPORT: markdown_report(result), RESULT: document})


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes text files, each whole or not at all."""
    for file, text in texts.items():
        write_text(folder / file, text)


def read_result(file: str | os.PathLike[str]) -> Result:
    """Reads a result file, or the one in a folder; ValueError if it is none."""
    path = Path(file) / RESULT if Path(file).is_dir() else Path(file)
    if not path.is_file():
        raise ValueError(f"There is no result file at {path}: give the {RESULT} that `xgenmm eval` wrote.")
    result = read_json(path)
    if result.get("format") != FORMAT:
        raise ValueError(f"{path} is no result of `xgenmm eval` (its format is not {FORMAT!r}).")
    return result


def markdown_report(result: Result) -> str:
    """Writes the report: scores, categories, the prompt in force, settings, problems."""
    task, counts = result["task"], result["counts"]
    blocks = [
        f"# {escape(task['name'])}",
        f"{counts['evaluated']:,} samples evaluated, {counts['problems']:,} problems; "
        f"{escape(result['checkpoint']['model'])}, {result['date']}.",
        markdown_table(["measure", "this run"], [[name, show(value)] for name, value in result["scores"].items()]),
    ]
    if result["by_category"]:
        blocks += ["## By category", category_table(result)]
    blocks += ["## Prompt", f"```text\n{result['prompt']['rendered']}\n```"]
    blocks += ["## How", markdown_table(["setting", "value"], settings_rows(result))]
    if result["problems"]:
        lines = [f"- {escape('{source}, {where}: {reason}'.format(**one))}" for one in result["problems"]]
        blocks += [f"## Problems ({counts['problems']:,} rows that do not count)", "\n".join(lines)]
    return "\n\n".join(blocks) + "\n"


def category_table(result: Result) -> str:
    """Returns the table of the measures of each category, with its number of samples."""
    names = list(dict.fromkeys(name for scores in result["by_category"].values() for name in scores))
    sizes = Counter(sample["category"] for sample in result["samples"])
    rows = [
        [category or "(none)", f"{sizes[category]:,}", *(show(scores.get(name)) for name in names)]
        for category, scores in result["by_category"].items()
    ]
    return markdown_table(["category", "samples", *names], rows)


def settings_rows(result: Result) -> list[list[str]]:
    """Returns name and value of everything that the numbers depend on."""
    rows = {
        "checkpoint": " ".join(f"{name} {value}" for name, value in result["checkpoint"].items()),
        **{name: "-" if value is None else str(value) for name, value in result["config"].items()},
        "rule": result["task"].get("rule", "-"),
        "files": ", ".join(result["files"]),
        "versions": ", ".join(f"{name} {number}" for name, number in result["versions"].items()),
    }
    return [list(row) for row in rows.items()]


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
