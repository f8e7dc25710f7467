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
    """Asks a model a task, rates the answers and writes the results.

    Args:
        loaded: The model and its processor.
        task: What to ask.
        output: Folder of the answers, results.json and results.md; a stopped evaluation in it is resumed.
        settings: How to ask.
        source: Folder or repository that the model was loaded from.
        files: The task's files, for the report.
        support: Where examples come from; None: the task itself, each sample without itself.
        share: This process's part of the work.
        progress: Called with samples done and samples to do by this process.
        announce: Called in the first process before anything is asked: the prompt in force (`describe_prompt`), and
            how it differs from that of the results that the folder holds (empty if not).

    Returns:
        The result; None in processes other than the first.

    Raises:
        ValueError: If nothing could be asked, or the metric does not fit the task.
    """
    share = share or Share()
    if settings.form is None and is_base(loaded.processor):
        settings = replace(settings, form="base")
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
