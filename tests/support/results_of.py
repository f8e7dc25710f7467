"""Results made by hand for tests of what is done with them."""

from typing import Any

from xgenmm_hf.evaluation.prompting import AskedSample, AskSettings
from xgenmm_hf.evaluation.results import Result, build_result
from xgenmm_hf.evaluation.runner import Run
from xgenmm_hf.evaluation.samples import Sample, SampleProblem, Scores, Task
from xgenmm_hf.inference.provenance import provenance


def make_result(
    scores: list[float],
    *,
    categories: tuple[str, ...] = ("",),
    samples: list[Sample] | None = None,
    answers: list[str] | None = None,
    model: str = "models/tiny",
    problems: tuple[SampleProblem, ...] = (),
    **settings: Any,
) -> Result:
    """Returns a result with a sample for each score, the categories taking turns."""
    if samples is None:
        samples = [
            Sample(f"s{number}", f"Question {number}?", (), ("yes",), categories[number % len(categories)])
            for number in range(len(scores))
        ]
    answers = answers or [f"answer {number}" for number in range(len(scores))]
    answered = [
        AskedSample(sample, f"prompt of {sample.id}", answer=answer)
        for sample, answer in zip(samples, answers, strict=True)
    ]
    by_category = {}
    if len(categories) > 1:
        for name in categories:
            values = [score for score, sample in zip(scores, samples, strict=True) if sample.category == name]
            by_category[name] = {"accuracy": sum(values) / len(values)}
    task = Task("drawn shapes", "own", samples, list(problems), "exact", "chat")
    found = Scores({"accuracy": sum(scores) / len(scores)}, list(scores), by_category)
    run = Run(answered, list(problems), 0)
    checkpoint = {"model": model, "sha256": "0" * 64}
    prompt = {"form": "chat", "suffixes": [""], "rendered": "<|user|>\n{question}<|end|>\n"}
    origin = provenance(model, checkpoint=checkpoint)
    facts = {"files": ["a.jsonl"], "checkpoint": checkpoint, "provenance": origin, "prompt": prompt}
    return build_result(task, run, found, AskSettings(**settings), facts)
