"""A run: limits, then the parts one after another, each a failure of its own."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.limits import measure_limits
from bench.parts import PARTS, find_part
from bench.report import as_record
from bench.session import Session
from bench.shapes import Setting


def run_bench(
    setting: Setting, parts: Sequence[str] = (), on_part: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Measures parts and relates them to the limits of the device.

    Args:
        setting: What is measured, where and how.
        parts: Names of `PARTS`; default: all.
        on_part: Called with the name of each part before it starts.

    Returns:
        The record that JSON holds. A part whose libraries are missing, or that runs out of memory, is listed in
        `skipped`.

    Raises:
        ValueError: If a part is unknown.
    """
    chosen = {name: find_part(name) for name in parts or PARTS}
    report = on_part or (lambda name: None)
    report("limits")
    limits = measure_limits(setting.device, setting.dtype)
    session, rows, skipped = Session(setting), [], {}
    for name in (name for name in PARTS if name in chosen):
        report(name)
        try:
            rows += chosen[name](session)
        except ImportError as error:
            skipped[name] = f"needs {error.name}; pip install 'xgenmm-hf[train]'"
        except torch.OutOfMemoryError:
            skipped[name] = "out of memory"
        gc.collect()
    # Once more at the end: what others ran on the machine meanwhile must not lower the limit.
    limits = limits.faster(measure_limits(setting.device, setting.dtype))
    return as_record(setting, limits, [row.as_dict(limits) for row in rows], skipped)
