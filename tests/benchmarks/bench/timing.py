"""Timers: several candidates in turns, so that all of them see the same machine; medians; peak memory."""

import gc
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Timing:
    """How long something took.

    Args:
        seconds: Median.
        low: Fastest run.
        high: Slowest run.
        runs: Number of runs.
    """

    seconds: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Effort:
    """How often to measure.

    Args:
        runs: Timed runs of each candidate at most.
        warmups: Runs before them.
        budget: Seconds after which no further round starts, as long as there is one.
    """

    runs: int = 5
    warmups: int = 1
    budget: float = 30.0


def once(seconds: float) -> Timing:
    """Returns the timing of a single run."""
    return Timing(seconds, seconds, seconds, 1)


def synchronize(device: torch.device) -> None:
    """Waits until a device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def run_timed(function: Callable[[], Any], device: torch.device) -> float:
    """Runs a function once and returns the seconds that it took, queued work of the device included."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def measure(functions: Mapping[str, Callable[[], Any]], device: torch.device, effort: Effort) -> dict[str, Timing]:
    """Times candidates in turns: A, B, then B, A, ...

    Args:
        functions: What to run, by name.
        device: Where it runs.
        effort: How often.

    Returns:
        A timing each.
    """
    for function in functions.values():
        for _ in range(effort.warmups):
            run_timed(function, device)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for number in range(effort.runs):
        if number and time.perf_counter() - start > effort.budget:
            break
        order = list(functions.items())
        for name, function in order if number % 2 == 0 else reversed(order):
            seconds[name].append(run_timed(function, device))
    return {
        name: Timing(statistics.median(taken), min(taken), max(taken), len(taken)) for name, taken in seconds.items()
    }


def peak_memory(function: Callable[[], Any], device: torch.device) -> int | None:
    """Runs a function and measures the memory that it needed beyond what was held before.

    Args:
        function: What to run.
        device: Where it runs.

    Returns:
        Bytes: of the allocator on a GPU, of the process's resident memory on Linux; None elsewhere.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu" or not CLEAR.exists():
        function()
        return None
    CLEAR.write_text("5")  # forgets the peak so far
    held = resident_bytes("VmRSS")
    function()
    return max(0, resident_bytes("VmHWM") - held)


def resident_bytes(key: str) -> int:
    """Reads a figure of this process from Linux's /proc.

    Args:
        key: `VmRSS` (now), `VmHWM` (peak) or `RssAnon` (now, without mapped files).

    Returns:
        Bytes.

    Raises:
        ValueError: If the kernel does not report it.
    """
    match = re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"{STATUS} holds no {key}: peak memory can be measured on Linux only.")
    return int(match[1]) * 1024
