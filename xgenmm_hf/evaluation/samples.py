"""What every evaluation shares: samples to ask, problems of rows that cannot be asked, tasks and scores."""

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One thing to ask.

    Args:
        id: Unique within the task.
        text: The question or instruction.
        images: Image references `{"bytes", "path"}` or PIL images; nothing is decoded before someone opens them.
        references: Right answers: those of ten annotators for VQA, captions for CIDEr, one for exact match, ...
        category: What tables break the scores down by; empty for none.
        options: What a metric needs besides, such as `{"safe": True}` or `{"choices": {"A": "cat"}}`.
        marked: Whether each `<image>` in the text is the place of an image; else images stand before the text, and
            an `<image>` in it is plain text.
    """

    id: str
    text: str
    images: tuple[Any, ...] = ()
    references: tuple[str, ...] = ()
    category: str = ""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    marked: bool = False


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
        digest = hashlib.sha256(f"{ref.mode} {ref.size} ".encode() + ref.tobytes())
        return f"pixels:{digest.hexdigest()[:32]}"
    if ref.get("bytes") is not None:
        return f"bytes:{hashlib.sha256(ref['bytes']).hexdigest()[:32]}"
    if ref.get("digest"):
        return f"bytes:{ref['digest']}"
    path = os.path.realpath(ref.get("path") or "")
    if not os.path.isfile(path):
        return f"file:missing:{path}"
    found = os.stat(path)
    return f"file:{found.st_size}:{found.st_mtime_ns}:{path}"
