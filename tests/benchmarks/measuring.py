"""Measuring side by side: candidates take turns, torch counts their operations, limits come from the same run."""

import gc
import re
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode


SIDES = {"cpu": (1024, 2048, 3072), "cuda": (4096, 8192, 12288)}
COPIED = {"cpu": 2**28, "cuda": 2**31}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Candidate:
    """One way to do something.

    Args:
        run: does it once.
        amount: units that a run makes.
        flops: floating-point operations of its matrix products; 0 where they do not bound it.
        moved: bytes that must be read or written at least; 0 where they do not bound it.
        baseline: name of the candidate that its rate is compared with.
    """

    run: Callable[[], Any]
    amount: float
    flops: float = 0.0
    moved: float = 0.0
    baseline: str | None = None


@dataclass(frozen=True)
class Limits:
    """The fastest square matrix product (FLOP/s) and the fastest plain copy (bytes/s, read and written)."""

    flops: float
    bandwidth: float

    def share(self, one: Candidate, seconds: float) -> float | None:
        """Returns the least possible time over the measured one; None without a bound."""
        least = max(one.flops / self.flops, one.moved / self.bandwidth)
        return least / seconds if least else None


def time_once(run: Callable[[], Any]) -> float:
    """Returns the seconds of one run on all threads after two warm-up runs, queued work of a GPU included."""
    return float(Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()).timeit(1).median)


def time_in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Times A, B, then B, A, ..., so that all candidates see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in names:
            seconds[name].append(time_once(runs[name]))
    return seconds


def count_flops(run: Callable[[], Any]) -> int:
    """Counts the matrix products of a run with torch's own counter; attention counts the full rectangle."""
    # The counter sees fused attention on GPUs only, and its hooks need a graph.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def measure_limits(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> Limits:
    """Measures what the device can do; the best run counts, because this is the limit."""
    rates = []
    for side in SIDES[device.type]:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)

        def multiply(left: Any = left, right: Any = right, out: Any = out) -> None:
            torch.matmul(left, right, out=out)

        rates.append(2 * side**3 / min(time_in_turns({"": multiply}, rounds)[""]))
    source = torch.randint(0, 127, (COPIED[device.type],), device=device, dtype=torch.int8)
    target = torch.empty_like(source)
    copied = min(time_in_turns({"": lambda: target.copy_(source)}, rounds)[""])
    return Limits(max(rates), 2 * source.numel() / copied)


def peak_memory(run: Callable[[], Any], device: torch.device) -> int | None:
    """Runs once and returns the bytes needed beyond what was held: of the allocator on a GPU, resident on Linux."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if not CLEAR.exists():
        run()
        return None
    CLEAR.write_text("5")  # forgets the peak so far
    before = resident_bytes("VmRSS")
    run()
    return max(0, resident_bytes("VmHWM") - before)


def resident_bytes(key: str) -> int:
    """Reads VmRSS (now) or VmHWM (peak) of this process; where there is no /proc, the peak of its whole life."""
    if not STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else 0


def compare(
    part: str, unit: str, candidates: Mapping[str, Candidate], device: torch.device, limits: Limits, rounds: int
) -> list[dict[str, Any]]:
    """Measures candidates in turns.

    Args:
        part: what is measured.
        unit: what `amount` counts.
        candidates: ways to do it, by name.
        device: where they run.
        limits: limits of the device.
        rounds: timed runs of each; the median counts.

    Returns:
        A row per candidate: seconds with their spread, rate, share of the limit, ratio to its baseline, peak bytes.
    """
    peaks = {name: peak_memory(one.run, device) for name, one in candidates.items()}
    seconds = time_in_turns({name: one.run for name, one in candidates.items()}, rounds)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    rows = []
    for name, one in candidates.items():
        rate, ratio = one.amount / medians[name], None
        if one.baseline is not None:
            other = candidates[one.baseline]
            ratio = rate / (other.amount / medians[one.baseline])
        row = {"part": part, "case": name, "seconds": medians[name], "low": min(seconds[name])}
        row |= {"high": max(seconds[name]), "rate": rate, "unit": unit, "peak": peaks[name]}
        rows.append({**row, "share": limits.share(one, medians[name]), "baseline": one.baseline, "ratio": ratio})
    return rows
