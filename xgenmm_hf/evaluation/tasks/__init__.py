"""Tasks: local files of the data sets, in their own formats, as samples to ask.

A row that cannot be asked (no image, a field missing or of another type, an unknown answer type, an id that was there
before) is never asked and never dropped in silence: it is one of the task's problems. Other benchmarks are refused
with the command that measures them.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.evaluation.harness.benchmarks import HARNESS_HINT, command_for
from xgenmm_hf.evaluation.metrics import METRICS
from xgenmm_hf.evaluation.samples import Problem, Sample, Task
from xgenmm_hf.evaluation.tasks.captions import read_captions
from xgenmm_hf.evaluation.tasks.collector import Collector, EnoughSamples, Images
from xgenmm_hf.evaluation.tasks.own import read_own
from xgenmm_hf.evaluation.tasks.safety import read_vlguard
from xgenmm_hf.evaluation.tasks.vqa import read_textvqa, read_vqa


__all__ = ["KINDS", "Kind", "Problem", "Sample", "Task", "load_task"]


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
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    images: Images = None,
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
    paths = [Path(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)]
    if not paths:
        raise ValueError("There is no file: give the files of the task.")
    collector = Collector(images, paths, limit)
    options: dict[str, Any] = {"split": split} if chosen.read is read_captions else {}
    if split is not None and not options:
        raise ValueError(f"The files of {kind} have no splits: leave out --split, and give the file of the split.")
    with contextlib.suppress(EnoughSamples):
        chosen.read(paths, collector, **options)
    has_choices = any("choices" in sample.options for sample in collector.samples)
    usual = "choice" if has_choices else chosen.metric
    return Task(name or kind, kind, collector.samples, collector.problems, metric or usual, chosen.prompt_style)
