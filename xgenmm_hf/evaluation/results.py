"""The result of an evaluation: one JSON file with settings, scores and answers."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.conversion.files import read_json, write_text
from xgenmm_hf.data.image_refs import image_name
from xgenmm_hf.evaluation.prompting import AskSettings
from xgenmm_hf.evaluation.samples import Scores, Task


if TYPE_CHECKING:
    from xgenmm_hf.evaluation.runner import Run

FORMAT = "xgenmm-eval-1"
RESULT = "results.json"

Result = dict[str, Any]


def build_result(
    task: Task, run: "Run", scores: Scores, settings: AskSettings, facts: Mapping[str, Any], **machine: Any
) -> Result:
    """Returns the contents of the result file; `facts` and `machine` go in as given."""
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
    longest = settings.answer_tokens(task.prompt_style)
    metric = {"metric": task.metric, "style": task.prompt_style, **({"rule": scores.rule} if scores.rule else {})}
    return {
        "format": FORMAT,
        "task": {"name": task.name, "kind": task.kind, **metric},
        **facts,
        "config": {**asdict(settings), "form": settings.prompt_form, "max_new_tokens": longest, **machine},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "counts": {"evaluated": len(records), "problems": len(run.problems), "resumed": run.resumed},
        "scores": finite(scores.overall),
        "by_category": {name: finite(measures) for name, measures in scores.by_category.items()},
        "samples": records,
        "problems": [asdict(problem) for problem in run.problems],
    }


def other_prompt(folder: Path, prompt: Mapping[str, Any]) -> str:
    """Returns a message if a prompt differs from that of the results in a folder, else an empty text."""
    try:
        before = read_result(folder)
    except ValueError:
        return ""
    parts = ", ".join(name for name in prompt if before.get("prompt", {}).get(name) != prompt[name])
    return parts and (
        f"The results of {before['date']} in {folder} were asked with another prompt ({parts}); they are replaced, "
        "and their numbers cannot be compared with the new ones."
    )


def finite(score: Any) -> Any:
    """Returns a number, or several by name, with None for NaN and inf, which JSON does not have."""
    if isinstance(score, Mapping):
        return {name: finite(value) for name, value in score.items()}
    return float(score) if score is not None and math.isfinite(score) else None


def write_result(result: Result, folder: Path) -> None:
    """Writes the result file; it appears whole or not at all."""
    document = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / RESULT, document)


def read_result(file: str | os.PathLike[str]) -> Result:
    """Reads a result file, or the one in a folder; raises a `ValueError` if there is none."""
    path = Path(file) / RESULT if Path(file).is_dir() else Path(file)
    if not path.is_file():
        raise ValueError(f"There is no result file at {path}: give the {RESULT} that `xgenmm eval` wrote.")
    result = read_json(path)
    if result.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no result of `xgenmm eval`: its format is {result.get('format')!r}, not {FORMAT}."
        )
    return result
