"""Loading a checkpoint in a fresh process: seconds and peak memory, against reading the file and its size."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.counts import Work
from bench.rows import Row
from bench.session import Session
from bench.timing import Timing, run_timed


STREAMING, READING = "reading the file through one buffer", "reading the file into memory"
LOADING = "from_pretrained and touching every page"
CHUNK = 2**24
PROGRAM = """
import json, sys, threading, time, torch
from transformers.utils import logging
from xgenmm_hf import XGenMMForConditionalGeneration
from bench.timing import CLEAR, resident_bytes, synchronize
XGenMMForConditionalGeneration.config_class  # resolved and imported
logging.set_verbosity_error(); logging.disable_progress_bar()
folder, device, threads = sys.argv[1:4]
torch.set_num_threads(int(threads))
torch.zeros(1, device=device)
anonymous = [0]
def watch():
    while not done.wait(0.005):
        anonymous[0] = max(anonymous[0], resident_bytes("RssAnon"))
done, report = threading.Event(), {}
watched = CLEAR.exists()
if watched:
    CLEAR.write_text("5")
    report["before"], report["anonymous_before"] = resident_bytes("VmRSS"), resident_bytes("RssAnon")
    watcher = threading.Thread(target=watch); watcher.start()
start = time.perf_counter()
model = XGenMMForConditionalGeneration.from_pretrained(folder, dtype="auto", device_map=device)
for weight in model.parameters():  # a mapped page is read when it is first touched
    weight.flatten()[:: 4096 // weight.element_size()].sum()
synchronize(torch.device(device))
report["seconds"] = time.perf_counter() - start
if watched:
    done.set(); watcher.join()
    report["peak"] = resident_bytes("VmHWM") - report.pop("before")
    report["anonymous"] = max(anonymous[0], resident_bytes("RssAnon")) - report.pop("anonymous_before")
print(json.dumps(report))
"""


def measure_load(session: Session) -> list[Row]:
    """Measures loading a checkpoint of the preset, in bytes of its file a second.

    The file was just written and lies in the page cache, for reading and for loading alike.
    """
    setting = session.setting
    with tempfile.TemporaryDirectory(prefix="xgenmm-bench-") as name:
        session.model.save_pretrained(name, max_shard_size="1TB")
        size = (Path(name) / "model.safetensors").stat().st_size
        session.drop_model()
        file, host = Path(name) / "model.safetensors", torch.device("cpu")
        seconds: dict[str, list[float]] = {STREAMING: [], READING: [], LOADING: []}
        reports = []
        for _ in range(min(3, setting.effort.runs)):
            seconds[STREAMING].append(run_timed(lambda: stream_file(file), host))
            seconds[READING].append(run_timed(file.read_bytes, host))
            reports.append(load_apart(name, str(setting.device)))
            seconds[LOADING].append(reports[-1]["seconds"])
    timings = {case: as_timing(taken) for case, taken in seconds.items()}
    best = min(reports, key=lambda report: report["seconds"])
    note = ""
    if "peak" in best:
        # Mapped pages of the file count as resident, though the system may drop them at any time.
        note = f"own memory {best['anonymous'] / size:.2f} x the file, with mapped pages {best['peak'] / size:.2f} x"
    ratio = timings[READING].seconds / timings[LOADING].seconds
    peak = int(best["anonymous"]) if "peak" in best else None
    gigabytes, moved = size / 1e9, Work(0.0, 2.0 * size)
    return [
        Row(
            "load",
            STREAMING,
            timings[STREAMING],
            "GB",
            gigabytes,
            moved,
            note=f"{gigabytes:.2f} GB, in the page cache",
        ),
        Row("load", READING, timings[READING], "GB", gigabytes, moved, int(size)),
        Row("load", LOADING, timings[LOADING], "GB", gigabytes, moved, peak, READING, ratio, note),
    ]


def stream_file(file: Path) -> None:
    """Reads a whole file into one small buffer again and again."""
    buffer = bytearray(CHUNK)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass


def load_apart(folder: str, device: str) -> dict[str, Any]:
    """Loads a checkpoint in a fresh Python and returns what that reports.

    Args:
        folder: The checkpoint.
        device: Where it is loaded to.

    Returns:
        `seconds`; on Linux also `peak` and `anonymous`, bytes of resident memory added.
    """
    command = [sys.executable, "-c", PROGRAM, folder, device, str(torch.get_num_threads())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def as_timing(seconds: list[float]) -> Timing:
    """Returns the median and the range of some seconds."""
    ordered = sorted(seconds)
    return Timing(ordered[len(ordered) // 2], ordered[0], ordered[-1], len(ordered))
