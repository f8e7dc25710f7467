"""A row of the table: one figure with its share of the machine's limit and its ratio to a named baseline."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.counts import Work
from bench.limits import Limits
from bench.timing import Effort, Timing, measure, once, peak_memory


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        part: What was measured.
        case: How, and on what.
        timing: Seconds.
        unit: What `amount` counts.
        amount: How many of them a run makes.
        work: What the run needs by formula; None where no formula fits.
        peak: Bytes needed at the peak beyond what was held before.
        baseline: Name of what it is compared with.
        ratio: Baseline's seconds over its own: above 1 is faster.
        note: What a reader should know.
    """

    part: str
    case: str
    timing: Timing
    unit: str
    amount: float
    work: Work | None = None
    peak: int | None = None
    baseline: str | None = None
    ratio: float | None = None
    note: str = ""

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.amount / self.timing.seconds

    def as_dict(self, limits: Limits) -> dict[str, Any]:
        """Returns the row as JSON holds it, with its shares of the limits.

        Args:
            limits: The device's limits.

        Returns:
            Plain values.
        """
        share = bound = None
        if self.work is not None and self.timing.seconds > 0:
            share, bound = limits.seconds(self.work) / self.timing.seconds, limits.bound(self.work)
        return {**asdict(self), "rate": self.rate, "share": share, "bound": bound}


@dataclass(frozen=True)
class Candidate:
    """One way to do something, to be measured beside others.

    Args:
        function: Does it once.
        amount: Units that a run makes.
        work: Its work by formula.
        note: What a reader should know.
    """

    function: Callable[[], Any]
    amount: float
    work: Work | None = None
    note: str = ""


def compare(
    part: str,
    unit: str,
    candidates: Mapping[str, Candidate],
    device: torch.device,
    effort: Effort,
    baselines: Mapping[str, str] | None = None,
) -> list[Row]:
    """Measures candidates in turns and relates them to their baselines.

    Args:
        part: What is measured.
        unit: What is counted.
        candidates: Ways to do it, by name.
        device: Where.
        effort: How often.
        baselines: Name of the baseline by name of the candidate; rates are compared.

    Returns:
        A row a candidate.
    """
    peaks, timings = {}, {}
    for name, one in candidates.items():
        start = time.perf_counter()
        peaks[name] = peak_memory(one.function, device)
        timings[name] = once(time.perf_counter() - start)
    # Measuring the peak was the first warm-up; where one took longer than the budget, it is the figure.
    if max(timing.seconds for timing in timings.values()) <= effort.budget:
        functions = {name: one.function for name, one in candidates.items()}
        timings = measure(functions, device, Effort(effort.runs, max(0, effort.warmups - 1), effort.budget))
    rows = []
    for name, one in candidates.items():
        baseline = (baselines or {}).get(name)
        ratio = None
        if baseline is not None:
            other = candidates[baseline]
            ratio = (one.amount / timings[name].seconds) / (other.amount / timings[baseline].seconds)
        rows.append(Row(part, name, timings[name], unit, one.amount, one.work, peaks[name], baseline, ratio, one.note))
    return rows
