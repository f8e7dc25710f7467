"""An evaluation from end to end: a task's answers, their scores, and the files that say so."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xgenmm_hf.evaluation.metrics import score
from xgenmm_hf.evaluation.reference_values import published
from xgenmm_hf.evaluation.results import Result, build_result, describe_checkpoint, write_result
from xgenmm_hf.evaluation.runner import Progress, Settings, checked_samples, run_task
from xgenmm_hf.evaluation.samples import Task
from xgenmm_hf.evaluation.share import Share


if TYPE_CHECKING:
    from xgenmm_hf.inference.loading import Loaded


def evaluate_task(
    loaded: "Loaded",
    task: Task,
    output: Path,
    settings: Settings,
    *,
    source: str,
    files: Sequence[str] = (),
    support: Task | None = None,
    share: Share | None = None,
    progress: Progress | None = None,
    html: int = 0,
) -> Result | None:
    """Asks a model a task, rates the answers and writes the results.

    Args:
        loaded: The model and its processor.
        task: What to ask.
        output: Folder of the answers, results.json and results.md; of an evaluation that was stopped, to go on.
        settings: How to ask.
        source: Folder or repository that the model was loaded from.
        files: The task's files, for the report.
        support: Where examples come from; None: the task itself, each sample without itself.
        share: This process's part of the work.
        progress: Called with samples done and samples to do by this process.
        html: Write report.html with up to this many samples.

    Returns:
        The result; None in processes other than the first.

    Raises:
        ValueError: If nothing could be asked, or the metric does not fit the task.
    """
    share = share or Share()
    # What a metric lacks should not show after hours of asking.
    score(task.metric, checked_samples(task, 1), [""])
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
    )
    if not share.is_first:
        return None
    if not run.answered:
        raise ValueError(f"No sample of {task.name} could be asked; the first problem: {run.problems[0]}.")
    scores = score(task.metric, [one.sample for one in run.answered], [one.answer for one in run.answered])
    result = build_result(
        task,
        run,
        scores,
        settings,
        checkpoint,
        files=files,
        device=f"{loaded.model.device.type}, {str(loaded.model.dtype).removeprefix('torch.')}",
        processes=share.world,
        published=published(task.name, settings.shots),
    )
    write_result(result, output)
    if html:
        from xgenmm_hf.evaluation.html_report import write_html

        write_html(result, task.samples, output, count=html, seed=settings.seed)
    return result
