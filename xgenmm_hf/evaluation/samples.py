"""What every evaluation shares: samples to ask, problems of rows that cannot be asked, tasks and scores."""

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One thing to ask."""

    id: str  # unique within the task
    text: str  # the question or instruction
    images: tuple[Any, ...] = ()  # references {"bytes", "path"} or PIL images; nothing is decoded before it is opened
    references: tuple[str, ...] = ()  # right answers: of ten annotators for VQA, captions for CIDEr, ...
    category: str = ""  # what tables break the scores down by
    options: dict[str, Any] = field(
        default_factory=dict, hash=False
    )  # for the metric: {"safe": True}, {"choices": ...}
    marked: bool = False  # each <image> in the text is the place of an image; else images stand before it


@dataclass(frozen=True)
class Problem:
    """A row that is not evaluated: its file, its place there, and what is wrong, in a sentence without a full stop."""

    source: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}, {self.where}: {self.reason}"


@dataclass(frozen=True)
class Task:
    """Samples of one data set with what is needed to ask and to score them.

    `kind` names the reader, such as "vqav2", `metric` the metric; `prompt_style` is how samples are put to a model:
    "vqa" (short answer), "caption" or "chat" (as they stand).
    """

    name: str
    kind: str
    samples: list[Sample]
    problems: list[Problem]
    metric: str
    prompt_style: str


@dataclass(frozen=True)
class Scores:
    """What a metric found: measures of all samples and of each category, a score for each sample, and the rule.

    Measures are shares from 0 to 1; CIDEr is divided by 100. The rule is said where more than one way gives a number.
    """

    overall: dict[str, float]
    per_sample: list[float]
    by_category: dict[str, dict[str, float]] = field(default_factory=dict)
    rule: str = ""


def image_key(ref: Any) -> str:
    """Returns what two references share if they show the same image from the same place; no file is decoded."""
    if isinstance(ref, Image.Image):
        return hashlib.sha256(f"{ref.mode} {ref.size} ".encode() + ref.tobytes()).hexdigest()
    if ref.get("digest"):
        return ref["digest"]
    path = os.path.realpath(ref["path"])
    found = os.stat(path) if os.path.isfile(path) else None
    return f"{path} {found and found.st_size} {found and found.st_mtime_ns}"
