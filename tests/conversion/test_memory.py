"""Conversion holds a tensor at a time, not a checkpoint."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest


if not Path("/proc/self/clear_refs").exists():
    pytest.skip("resident memory is read from Linux's /proc", allow_module_level=True)


SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is room for the files; a slow disk takes longer than the conversion."""
    if not SHARED_MEMORY.is_dir() or min(shutil.disk_usage(SHARED_MEMORY).free, available_memory()) < 6e9:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY, prefix="xgenmm-memory-") as made:
        yield Path(made)


def available_memory() -> float:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def run(command: list[str]) -> str:
    done = forked.run(command)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["a", "b"])
def test_peak_memory(folder: Path, layout: str) -> None:
    path = Path(__file__).parent / "measure_memory.py"
    spec = importlib.util.spec_from_file_location("measure_memory", path)
    meter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meter)
    options = {"layers": 1, "dtype": "bfloat16", "shard_size": "200MB", "layout": layout}
    figures = meter.measure(folder, **options, run=run)
    assert figures["total_mb"] > 800
    assert figures["increase_mb"] < 1.2 * figures["largest_file_mb"]
