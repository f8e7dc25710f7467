"""Tasks: local files of the data sets, in their own formats, as samples to ask.

A row that cannot be asked is never dropped in silence: it is one of the task's problems. Other benchmarks are refused
with the command that measures them.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from xgenmm_hf.evaluation.harness.benchmarks import HARNESS_HINT, command_for
from xgenmm_hf.evaluation.metrics import METRICS
from xgenmm_hf.evaluation.samples import Task
from xgenmm_hf.evaluation.tasks.own import read_own
from xgenmm_hf.evaluation.tasks.published import read_captions, read_textvqa, read_vlguard, read_vqa
from xgenmm_hf.evaluation.tasks.rows import Collector, EnoughSamples


class Kind(NamedTuple):
    """A kind of task: what reads its files into a `Collector`, its usual metric, how it is put to a model."""

    read: Callable[..., None]
    metric: str
    prompt_style: str


KINDS = {
    "vqav2": Kind(read_vqa, "vqa_accuracy", "vqa"),
    "okvqa": Kind(read_vqa, "vqa_accuracy", "vqa"),
    "textvqa": Kind(read_textvqa, "textvqa_accuracy", "vqa"),
    "coco_captions": Kind(read_captions, "cider", "caption"),
    "vlguard": Kind(read_vlguard, "safety", "chat"),
    "own": Kind(read_own, "exact", "vqa"),
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
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    if not paths:
        raise ValueError("There is no file: give the files of the task.")
    collector = Collector(images, paths, limit)
    if split is not None and chosen.read is not read_captions:
        raise ValueError(f"The files of {kind} have no splits: leave out --split, and give the file of the split.")
    with contextlib.suppress(EnoughSamples):
        chosen.read(paths, collector, **({} if split is None else {"split": split}))
    usual = "choice" if any("choices" in sample.options for sample in collector.samples) else chosen.metric
    return Task(name or kind, kind, collector.samples, collector.problems, metric or usual, chosen.prompt_style)
