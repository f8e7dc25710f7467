"""An evaluation from end to end: a task's answers, their scores, and the files that say so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.evaluation.few_shot import PROTOCOLS, stem_answer
from xgenmm_hf.evaluation.metrics import score
from xgenmm_hf.evaluation.prompting import describe_prompt
from xgenmm_hf.evaluation.results import Result, build_result, other_prompt, write_result
from xgenmm_hf.evaluation.runner import Progress, checked_samples, run_task
from xgenmm_hf.evaluation.samples import Task
from xgenmm_hf.evaluation.settings import AskSettings
from xgenmm_hf.evaluation.share import Share
from xgenmm_hf.inference.prompt_form import read_prompt_form
from xgenmm_hf.inference.prompts import is_base
from xgenmm_hf.inference.provenance import describe_checkpoint


if TYPE_CHECKING:
    from xgenmm_hf.inference.loading import Loaded


def evaluate_task(
    loaded: "Loaded",
    task: Task,
    output: Path,
    settings: AskSettings,
    *,
    source: str,
    files: Sequence[str] = (),
    support: Task | None = None,
    share: Share | None = None,
    progress: Progress | None = None,
    announce: Callable[[Mapping[str, Any], str], None] | None = None,
) -> Result | None:
    """Asks a model a task, rates the answers and writes the results."""
    share = share or Share()
    if settings.form is None and is_base(loaded.processor):
        settings = replace(settings, form="base")
    settings = settings.in_form(read_prompt_form(source))
    # What a metric or a protocol lacks should not show after hours of asking.
    score(task.metric, checked_samples(task, 1), [""])
    if task.kind == "okvqa" and settings.rules is PROTOCOLS["openflamingo"]:
        stem_answer("men riding horses")
    prompt = describe_prompt(loaded.processor, task, settings)

    def started() -> None:
        if announce is not None:
            announce(prompt, other_prompt(output, prompt))

    checkpoint = describe_checkpoint(source, getattr(loaded.model.config, "_commit_hash", None))
    run = run_task(
        loaded,
        task,
        output,
        settings,
        support=support,
        checkpoint=checkpoint.get("sha256") or checkpoint.get("commit") or source,
        share=share,
        progress=progress,
        started=started if share.is_first else None,
    )
    if not share.is_first:
        return None
    if not run.answered:
        raise ValueError(f"No sample of {task.name} could be asked; the first problem: {run.problems[0]}.")
    scores = score(task.metric, [one.sample for one in run.answered], [one.answer for one in run.answered])
    device = f"{loaded.model.device.type}, {str(loaded.model.dtype).removeprefix('torch.')}"
    facts = {"files": list(files), "checkpoint": checkpoint, "prompt": prompt}
    result = build_result(task, run, scores, settings, facts, device=device, processes=share.world)
    write_result(result, output)
    return result
