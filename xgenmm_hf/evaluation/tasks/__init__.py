"""Tasks: local files of the data sets, in their own formats, as samples to ask.

A row that cannot be asked is never dropped silently: it becomes one of the task's problems. Other benchmarks are
refused with the command that measures them.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from xgenmm_hf.data.records import find_files
from xgenmm_hf.evaluation.harness.benchmarks import HARNESS_HINT, command_for
from xgenmm_hf.evaluation.metrics import METRICS
from xgenmm_hf.evaluation.samples import Sample, Task
from xgenmm_hf.evaluation.tasks.own import own_samples
from xgenmm_hf.evaluation.tasks.published import caption_rows, caption_samples, vlguard_samples, vqa_rows, vqa_samples
from xgenmm_hf.evaluation.tasks.rows import Collector, TaskRow, read_rows


class Kind(NamedTuple):
    """A kind of task: its functions that read rows and make samples, its default metric, its prompt style."""

    rows: Callable[..., Iterable[TaskRow]]
    samples: Callable[..., Iterable[Sample]]
    metric: str
    prompt_style: str


KINDS = {
    "vqav2": Kind(vqa_rows, vqa_samples, "vqa_accuracy", "vqa"),
    "okvqa": Kind(vqa_rows, vqa_samples, "vqa_accuracy", "vqa"),
    "textvqa": Kind(read_rows, vqa_samples, "textvqa_accuracy", "vqa"),
    "coco_captions": Kind(caption_rows, caption_samples, "cider", "caption"),
    "vlguard": Kind(read_rows, vlguard_samples, "safety", "chat"),
    "own": Kind(read_rows, own_samples, "exact", "vqa"),
}


def load_task(
    kind: str,
    files: str | Path | Sequence[str | Path],
    *,
    images: str | Path | None = None,
    name: str | None = None,
    metric: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> Task:
    """Reads a task from local files."""
    chosen = KINDS.get(kind)
    if chosen is None:
        raise ValueError(
            f"`xgenmm eval` has no kind of task {kind!r}; it has {', '.join(KINDS)}. "
            + (command_for(kind) or f"For a benchmark {HARNESS_HINT}")
        )
    if metric is not None and metric not in METRICS:
        raise ValueError(f"There is no metric {metric!r}; there are {', '.join(METRICS)}.")
    if split is not None and chosen.rows is not caption_rows:
        raise ValueError(f"The files of {kind} have no splits: leave out --split, and give the file of the split.")
    paths = find_files(files)
    if not paths:
        raise ValueError("There is no file: give the files of the task.")
    if table := next((path for path in paths if path.suffix.lower() == ".tsv"), None):
        raise ValueError(
            f"{table} is a table as VLMEvalKit reads it: run xgenmm eval --harness vlmevalkit --data {table.stem}."
        )
    collector = Collector(images, paths, limit)
    collector.collect(chosen.rows(paths, **({} if split is None else {"split": split})), chosen.samples)
    usual = "choice" if any("choices" in sample.options for sample in collector.samples) else chosen.metric
    return Task(name or kind, kind, collector.samples, collector.problems, metric or usual, chosen.prompt_style)
