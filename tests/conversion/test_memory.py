"""Conversion holds a tensor at a time, not a checkpoint."""

import importlib.util
from pathlib import Path

import pytest


if not Path("/proc/self/clear_refs").exists():
    pytest.skip("resident memory is read from Linux's /proc", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["a", "b"])
def test_peak_memory(tmp_path: Path, layout: str) -> None:
    path = Path(__file__).parent / "measure_memory.py"
    spec = importlib.util.spec_from_file_location("measure_memory", path)
    meter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meter)
    figures = meter.measure(tmp_path, layers=1, dtype="bfloat16", shard_size="200MB", layout=layout)
    assert figures["total_mb"] > 800
    assert figures["increase_mb"] < 1.2 * figures["largest_file_mb"]
