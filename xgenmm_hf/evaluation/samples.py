"""What every evaluation shares: samples to ask, problems of rows that cannot be asked, tasks and scores."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One question to ask."""

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
class SampleProblem:
    """A row that is not evaluated: its file, its place there, and what is wrong, in a sentence without a full stop."""

    source: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}, {self.where}: {self.reason}"


@dataclass(frozen=True)
class Task:
    """Samples of one data set with what is needed to ask and to score them."""

    name: str
    kind: str  # of reader, such as "vqav2"
    samples: list[Sample]
    problems: list[SampleProblem]
    metric: str
    prompt_style: str  # "vqa" (short answer), "caption" or "chat" (as it stands)


@dataclass(frozen=True)
class Scores:
    """What a metric found: measures of all samples and of each category, a score for each sample, and the rule.

    Measures are shares from 0 to 1; CIDEr is divided by 100. The rule is set if the metric has several.
    """

    overall: dict[str, float]
    per_sample: list[float]
    by_category: dict[str, dict[str, float]] = field(default_factory=dict)
    rule: str = ""
