"""Tasks: local files of the data sets, in their own formats, as samples to ask.

| kind | files | metric |
|---|---|---|
| `vqav2` | questions and annotations JSON of VQAv2 or OKVQA, VizWiz' JSON, or rows with both | vqa_accuracy |
| `textvqa` | TextVQA's JSON or rows | vqa_accuracy |
| `docvqa` | DocVQA's or InfographicVQA's JSON or rows | anls |
| `coco_captions` | captions in COCO's, NoCaps', Karpathy's or TextCaps' JSON, or rows | cider |
| `pope` | POPE's JSON Lines, or rows | pope |
| `vlguard` | VLGuard's JSON | safety |
| `multi_image` | rows of a question about several images, with options or without; VLMEvalKit's TSV | accuracy |
| `exact` | rows of a question and an answer; VLMEvalKit's TSV | exact_normalised, or accuracy with options |

Rows are JSON, JSON Lines, parquet, TSV or CSV. A row that cannot be asked (no image, a field missing or of another
type, an unknown answer type, an id that was there before) is never asked and never dropped in silence: it is one of
the task's problems.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.metrics import METRICS
from xgenmm_hf.evaluation.samples import Problem, Sample, Task
from xgenmm_hf.evaluation.tasks.captions import read_captions
from xgenmm_hf.evaluation.tasks.collecting import Collector, Images
from xgenmm_hf.evaluation.tasks.probing import read_pope
from xgenmm_hf.evaluation.tasks.safety import read_vlguard
from xgenmm_hf.evaluation.tasks.tables import read_exact, read_multi_image
from xgenmm_hf.evaluation.tasks.vqa import read_docvqa, read_textvqa, read_vqa


__all__ = ["KINDS", "Kind", "Problem", "Sample", "Task", "load_task"]


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Args:
        read: Reads files into a `Collector`; its keywords are the kind's options.
        metric: What its answers are rated by.
        prompt_style: How it is put to a model.
    """

    read: Callable[..., None]
    metric: str
    prompt_style: str


KINDS = {
    "vqav2": Kind(read_vqa, "vqa_accuracy", "vqa"),
    "textvqa": Kind(read_textvqa, "vqa_accuracy", "vqa"),
    "docvqa": Kind(read_docvqa, "anls", "vqa"),
    "coco_captions": Kind(read_captions, "cider", "caption"),
    "pope": Kind(read_pope, "pope", "vqa"),
    "vlguard": Kind(read_vlguard, "safety", "chat"),
    "multi_image": Kind(read_multi_image, "accuracy", "chat"),
    "exact": Kind(read_exact, "exact_normalised", "vqa"),
}


def load_task(
    kind: str,
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    images: Images = None,
    name: str | None = None,
    metric: str | None = None,
    **options: Any,
) -> Task:
    """Reads a task from local files.

    Args:
        kind: A name in `KINDS`.
        files: The file or files.
        images: Folder that relative paths of images start from, or a table from first components of paths to
            folders; None: the folder of the first file.
        name: What reports call the task; None: its kind.
        metric: A name in `metrics.METRICS`; None: the kind's.
        **options: Options of the kind: `split` and `instruction` for coco_captions.

    Returns:
        The task; rows that cannot be asked are among its problems.

    Raises:
        ValueError: If there is no such kind, metric, option or file, or a file is damaged as a whole.
    """
    chosen = KINDS.get(kind)
    if chosen is None:
        raise ValueError(f"There is no kind of task {kind!r}; there are {', '.join(KINDS)}.")
    if metric is not None and metric not in METRICS:
        raise ValueError(f"There is no metric {metric!r}; there are {', '.join(METRICS)}.")
    known = [*inspect.signature(chosen.read).parameters][2:]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"The kind {kind} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(file) for file in files]
    if not paths:
        raise ValueError(f"The task {name or kind} has no files; give at least one.")
    collector = Collector(images, paths)
    chosen.read(paths, collector, **options)
    with_choices = kind == "exact" and any("choices" in sample.options for sample in collector.samples)
    return Task(
        name or kind,
        kind,
        collector.samples,
        collector.problems,
        metric or ("accuracy" if with_choices else chosen.metric),
        "chat" if with_choices else chosen.prompt_style,
    )
