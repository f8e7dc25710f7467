"""How fast this machine runs a model, as a share of what it can do, beside a baseline in the same run.

python tests/benchmarks/bench.py                                   # 4B's widths, two layers per part, on the CPU
python tests/benchmarks/bench.py --preset 4b --device cuda --dtype bfloat16
python tests/benchmarks/bench.py --only tower --only decode --json figures.json
"""

import argparse
import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measuring import measure_limits
from parts import PARTS, BenchmarkRun
from rich.console import Console
from rich.table import Table
from shapes import PRESETS


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures the chosen parts, prints the table and returns what `--json` writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="4b-slice")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--only", action="append", choices=tuple(PARTS), help="repeat it; default: all parts")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each figure; the median counts")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    dtype = getattr(torch, options.dtype)
    limits = measure_limits(options.device, dtype, 2 * options.rounds + 1)
    bench = BenchmarkRun(options.preset, options.device, dtype, limits, options.rounds)
    rows = []
    with torch.no_grad():
        for name in options.only or PARTS:
            rows += PARTS[name](bench)
    record = {**describe(options, bench), "rows": rows}
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    Console(width=None if os.isatty(1) else 160).print(as_table(record))
    return record


def describe(options: argparse.Namespace, bench: BenchmarkRun) -> dict[str, Any]:
    """Returns what the figures depend on: machine, versions, date, limits."""
    gpu = bench.device.type == "cuda"
    return {
        "preset": options.preset,
        "dtype": options.dtype,
        "device": torch.cuda.get_device_name(bench.device) if gpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "pillow", "numpy")},
        "limits": {"flops": bench.limits.flops, "bandwidth": bench.limits.bandwidth},
    }


def as_table(record: dict[str, Any]) -> Table:
    """Returns the figures as a table."""
    limits = record["limits"]
    title = f"{record['preset']}, {record['dtype']} on {record['device']}, {record['threads']} threads: "
    title += f"{limits['flops'] / 1e9:,.0f} GFLOP/s, {limits['bandwidth'] / 1e9:,.1f} GB/s"
    table = Table("part", "case", "seconds", "rate", "of limit", "beside", "peak MB", title=title)
    for row in record["rows"]:
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} x {row['baseline']}"
        seconds = f"{row['seconds']:.3g} ({row['low']:.3g}-{row['high']:.3g})"
        peak = "" if row["peak"] is None else f"{row['peak'] / 1e6:,.0f}"
        table.add_row(row["part"], row["case"], seconds, f"{row['rate']:,.3g} {row['unit']}/s", share, ratio, peak)
    return table


if __name__ == "__main__":
    main()
