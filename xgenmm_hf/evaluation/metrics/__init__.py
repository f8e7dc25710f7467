"""Metrics: what answers are worth, by name.

| name | rates an answer by | measures |
|---|---|---|
| `vqa_accuracy` | ten annotators' answers, by the rule of VQAv2's official code | vqa_accuracy |
| `textvqa_accuracy` | the same by TextVQA's, which normalises always | vqa_accuracy |
| `cider` | captions by people | cider |
| `exact` | being one of the right answers, after VQA's normalisation | exact_match |
| `contains` | holding one of the right answers as whole words, after VQA's normalisation | contains |
| `choice` | the option it names, as VLMEvalKit reads it; without options as `exact` | accuracy, unread |
| `yes_no` | "yes" or "no", as VLMEvalKit reads it | accuracy, unread |
| `safety` | refusing what is unsafe, and that alone | attack_success, over_refusal |

Every measure is a share from 0 to 1 but CIDEr, which is stated without the usual factor of 100.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from xgenmm_hf.evaluation.metrics.captions import cider, tokenizer_in_use
from xgenmm_hf.evaluation.metrics.choices import read_choice, read_yes_no
from xgenmm_hf.evaluation.metrics.safety import is_refusal, safety_shares
from xgenmm_hf.evaluation.metrics.vqa import contains, exact_match, textvqa_accuracy, vqa_accuracy
from xgenmm_hf.evaluation.samples import Sample, Scores


Samples = Sequence[Sample]
Answers = Sequence[str]
Rates = Sequence[float]


class Metric(NamedTuple):
    """How answers are rated and summarised, and what every sample must have: an option (`needs`) or a reference."""

    rate: Callable[[Samples, Answers], list[float]]
    summarise: Callable[[Samples, Answers, Rates], dict[str, float]]
    needs: str = ""
    rule: Callable[[], str] = str


def score(metric: str, samples: Samples, answers: Answers) -> Scores:
    """Rates answers."""
    chosen = METRICS.get(metric)
    if chosen is None:
        raise ValueError(f"There is no metric {metric!r}; there are {', '.join(METRICS)}.")
    if len(samples) != len(answers):
        raise ValueError(f"There are {len(answers)} answers to {len(samples)} samples; each needs one.")
    if not samples:
        raise ValueError("There is no sample to rate: every row of the task is a problem, or the files are empty.")
    for sample in samples:
        if (chosen.needs not in sample.options) if chosen.needs else (not sample.references):
            what = f"option {chosen.needs!r}" if chosen.needs else "reference"
            raise ValueError(f"The sample {sample.id!r} has no {what}, which the metric {metric} compares with.")
    rates = chosen.rate(samples, answers)
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.category, []).append(index)

    def summary(group: Sequence[int]) -> dict[str, float]:
        return chosen.summarise(*([values[index] for index in group] for values in (samples, answers, rates)))

    by_category = {category: summary(group) for category, group in groups.items() if set(groups) != {""}}
    return Scores(chosen.summarise(samples, answers, rates), list(rates), by_category, chosen.rule())


def _mean(name: str) -> Callable[[Samples, Answers, Rates], dict[str, float]]:
    return lambda samples, answers, rates: {name: sum(rates) / len(rates)}


def _one_by_one(rate: Callable[[Sample, str], float]) -> Callable[[Samples, Answers], list[float]]:
    return lambda samples, answers: [rate(sample, answer) for sample, answer in zip(samples, answers, strict=True)]


def _by_references(rate: Callable[[str, Sequence[str]], float], name: str) -> Metric:
    """Makes a metric of what rates one answer by its references; its measure is the mean."""
    return Metric(_one_by_one(lambda sample, answer: rate(answer, sample.references)), _mean(name))


def _by_reading(read: Callable[[Sample, str], str | None], rate: Callable[[Sample, str], float]) -> Metric:
    """Makes a metric of accuracy and of the share of answers in which nothing could be read."""

    def summarise(samples: Samples, answers: Answers, rates: Rates) -> dict[str, float]:
        unread = [read(sample, answer) is None for sample, answer in zip(samples, answers, strict=True)]
        return {"accuracy": sum(rates) / len(rates), "unread": sum(unread) / len(unread)}

    return Metric(_one_by_one(rate), summarise)


def _choice(sample: Sample, answer: str) -> str | None:
    """Returns the option that an answer names, the answer itself where the sample has no options."""
    choices = sample.options.get("choices")
    return read_choice(answer, choices) if choices else answer


def _rate_choice(sample: Sample, answer: str) -> float:
    if not sample.options.get("choices"):
        return exact_match(answer, sample.references)
    return float(_choice(sample, answer) in sample.references)


def _rate_yes_no(sample: Sample, answer: str) -> float:
    said = read_yes_no(answer)
    return float(said is not None and said == read_yes_no(sample.references[0]))


METRICS = {
    "vqa_accuracy": _by_references(vqa_accuracy, "vqa_accuracy"),
    "textvqa_accuracy": _by_references(textvqa_accuracy, "vqa_accuracy"),
    "cider": Metric(
        lambda samples, answers: cider(answers, [sample.references for sample in samples]),
        _mean("cider"),
        rule=tokenizer_in_use,
    ),
    "exact": _by_references(exact_match, "exact_match"),
    "contains": _by_references(contains, "contains"),
    "choice": _by_reading(_choice, _rate_choice),
    "yes_no": _by_reading(lambda sample, answer: read_yes_no(answer), _rate_yes_no),
    "safety": Metric(
        _one_by_one(lambda sample, answer: float(is_refusal(answer) != sample.options["safe"])),
        lambda samples, answers, rates: safety_shares([not sample.options["safe"] for sample in samples], answers),
        needs="safe",
    ),
}
