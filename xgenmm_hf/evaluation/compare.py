"""Two results of the same task compared: differences with bootstrap intervals and a paired test.

Both are computed over the samples that both results have. Measures that are means over samples get intervals and a
p-value; others (F1, for instance) are put side by side as the results state them, over all samples of each. Where no
measure is such a mean, the mean of the samples' own scores is compared besides.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xgenmm_hf.evaluation.results import Result, markdown_table, show


RESAMPLES = 10_000
LEVEL = 0.95
PER_SAMPLE = "mean score of a sample"
# Measures that are the mean of the samples' scores.
MEANS = frozenset(("vqa_accuracy", "cider", "anls", "exact_match", "accuracy"))
# Draws of this many numbers at a time keep memory small.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Difference:
    """A measure of two results.

    Args:
        measure: Its name.
        category: The category; empty for all samples.
        samples: Samples that both have.
        first: The first result's value over them.
        second: The second's.
        first_interval: Bootstrap interval of the first.
        second_interval: Bootstrap interval of the second.
        difference: Second minus first.
        interval: Bootstrap interval of the difference, samples drawn in pairs.
        p_value: Of the two-sided paired permutation test that both answer equally well.
    """

    measure: str
    category: str
    samples: int
    first: float
    second: float
    difference: float
    first_interval: tuple[float, float] | None = None
    second_interval: tuple[float, float] | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What comparing two results gave.

    Args:
        first: Name of the first result's checkpoint and settings.
        second: Of the second's.
        differences: The measures over all samples, then by category.
        only_first: Samples that the first alone has; they do not count.
        only_second: Samples that the second alone has.
    """

    first: str
    second: str
    differences: list[Difference]
    only_first: int
    only_second: int


def compare(first: Result, second: Result, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compares two results sample by sample.

    Args:
        first: The baseline.
        second: What is compared with it.
        resamples: Draws of the bootstrap and of the permutation test.
        seed: Their seed.

    Returns:
        The comparison.

    Raises:
        ValueError: If they are of different tasks or metrics, share no sample, or ask different things under an id.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be 1 or more.")
    ones, others = _paired_samples(first, second)
    categories = list(dict.fromkeys(one["category"] for one in ones))
    groups = ["", *(sorted(name for name in categories if name) if len(categories) > 1 else [])]
    differences = []
    for group in groups:
        chosen = [place for place, one in enumerate(ones) if group in ("", one["category"])]
        pair = ([ones[place] for place in chosen], [others[place] for place in chosen])
        differences += _differences(group, pair, (first, second), resamples, seed)
    shared = len(ones)
    return Comparison(
        describe_run(first),
        describe_run(second),
        differences,
        len(first["samples"]) - shared,
        len(second["samples"]) - shared,
    )


def describe_run(result: Result) -> str:
    """Says in a few words which run a result is of."""
    config = result["config"]
    shots = f", {config['shots']} shots{' (retrieved)' if config['retrieval'] else ''}" if config["shots"] else ""
    return f"{result['checkpoint']['model']} ({config['form']}{shots}, {result['date']})"


def _paired_samples(first: Result, second: Result) -> tuple[list[Any], list[Any]]:
    """Returns the samples of both results that have the same id, in the first's order."""
    for field in ("kind", "metric"):
        if first["task"][field] != second["task"][field]:
            raise ValueError(
                f"The results have the {field}s {first['task'][field]!r} and {second['task'][field]!r}: "
                "compare results of the same task."
            )
    by_id = {one["id"]: one for one in second["samples"]}
    ones = [one for one in first["samples"] if one["id"] in by_id]
    others = [by_id[one["id"]] for one in ones]
    if not ones:
        raise ValueError("The results share no sample: compare results of the same files.")
    for one, other in zip(ones, others, strict=True):
        if (one["question"], one["references"]) != (other["question"], other["references"]):
            raise ValueError(
                f"Sample {one['id']!r} has another question or other references in the second result: "
                "compare results of the same files."
            )
    return ones, others


def _differences(
    category: str, pair: tuple[list[Any], list[Any]], results: tuple[Result, Result], resamples: int, seed: int
) -> list[Difference]:
    """Compares every measure within a category."""
    found = []
    means = [name for name in results[0]["scores"] if name in MEANS]
    for measure in [*results[0]["scores"], *([] if means else [PER_SAMPLE])]:
        if measure not in (*means, PER_SAMPLE):
            found += _side_by_side(category, measure, results, len(pair[0]))
            continue
        values = [[one["score"] for one in part] for part in pair]
        kept = [(a, b) for a, b in zip(*values, strict=True) if a is not None and b is not None]
        if kept:
            array = np.array(kept, dtype=np.float64).T
            found.append(paired_test(array[0], array[1], measure, category, resamples, seed))
    return found


def _side_by_side(category: str, measure: str, results: tuple[Result, Result], samples: int) -> list[Difference]:
    """Returns a measure that is no mean as it was stated, if both results state it."""
    tables = [result["by_category"].get(category, {}) if category else result["scores"] for result in results]
    first, second = (table.get(measure) for table in tables)
    if first is None or second is None:
        return []
    return [Difference(measure, category, samples, first, second, second - first)]


def paired_test(
    first: np.ndarray, second: np.ndarray, measure: str, category: str, resamples: int, seed: int
) -> Difference:
    """Compares two rows of scores of the same samples.

    Args:
        first: The baseline's scores, (samples,).
        second: The other's, (samples,).
        measure: What they measure.
        category: Of what.
        resamples: Draws.
        seed: Their seed.

    Returns:
        Means, percentile bootstrap intervals, and the p-value of flipping the signs of differences.
    """
    generator = np.random.default_rng(seed)
    means, flipped = [], []
    change = second - first
    for count in _blocks(resamples, len(first)):
        drawn = generator.integers(len(first), size=(count, len(first)))
        means.append(np.stack([first[drawn].mean(1), second[drawn].mean(1)]))
        flipped.append((change * generator.choice((-1.0, 1.0), size=drawn.shape)).mean(1))
    bootstrap = np.concatenate(means, axis=1)
    extreme = np.abs(np.concatenate(flipped)) >= abs(change.mean()) - 1e-12
    return Difference(
        measure,
        category,
        len(first),
        float(first.mean()),
        float(second.mean()),
        float(change.mean()),
        _interval(bootstrap[0]),
        _interval(bootstrap[1]),
        _interval(bootstrap[1] - bootstrap[0]),
        # The observed signs are one of the draws: no p-value is 0.
        float((1 + extreme.sum()) / (1 + resamples)),
    )


def _blocks(resamples: int, size: int) -> list[int]:
    """Splits draws into blocks of bounded size."""
    most = max(1, _BLOCK // size)
    return [min(most, resamples - start) for start in range(0, resamples, most)]


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def comparison_table(comparison: Comparison) -> str:
    """Writes a comparison as Markdown.

    Args:
        comparison: What `compare` returned.

    Returns:
        Which results, and a table of the measures.
    """
    rows = [
        [
            one.measure,
            one.category or "all",
            f"{one.samples:,}",
            _with_interval(one.first, one.first_interval),
            _with_interval(one.second, one.second_interval),
            _with_interval(one.difference, one.interval, "+"),
            "-" if one.p_value is None else f"{one.p_value:.4f}",
        ]
        for one in comparison.differences
    ]
    header = ["measure", "category", "samples", "first", "second", "difference", "p"]
    blocks = [f"first: {comparison.first}  \nsecond: {comparison.second}", markdown_table(header, rows)]
    if comparison.only_first or comparison.only_second:
        blocks.append(
            f"Not counted: {comparison.only_first:,} samples of the first alone and {comparison.only_second:,} of the "
            "second alone."
        )
    return "\n\n".join(blocks)


def _with_interval(value: float, interval: tuple[float, float] | None, sign: str = "") -> str:
    """Returns a number with its interval behind it."""
    text = f"{value:{sign}.4f}" if sign else show(value)
    return text if interval is None else f"{text} ({interval[0]:{sign}.4f} to {interval[1]:{sign}.4f})"
