"""The table for a terminal, the JSON file, and what machine and versions the figures belong to."""

import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.limits import Limits
from bench.shapes import Setting
from xgenmm_hf.evaluation.results import write_files


if TYPE_CHECKING:
    from rich.table import Table

LIBRARIES = ("torch", "transformers", "trl", "peft", "pillow", "numpy", "torchao", "bitsandbytes")


def describe_machine(setting: Setting) -> dict[str, Any]:
    """Returns what the figures depend on: processor or GPU, threads, versions, date."""
    on_gpu = setting.device.type == "cuda"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(setting.device) if on_gpu else processor_name(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := installed_version(name)) is not None},
    }


def processor_name() -> str:
    """Returns the processor's name with the number of its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def installed_version(name: str) -> str | None:
    """Returns the version of an installed library, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def as_record(setting: Setting, limits: Limits, rows: list[dict[str, Any]], skipped: dict[str, str]) -> dict[str, Any]:
    """Returns a run as JSON holds it.

    Args:
        setting: What was measured.
        limits: The device's limits.
        rows: Rows with their shares.
        skipped: Parts that could not be measured, and why.

    Returns:
        Plain values.
    """
    return {
        "preset": setting.preset,
        "device": str(setting.device),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "compiled": setting.compiled,
        "machine": describe_machine(setting),
        "limits": {"flops": limits.flops, "bandwidth": limits.bandwidth},
        "rows": rows,
        "skipped": skipped,
    }


def write_json(record: dict[str, Any], file: Path) -> None:
    """Writes a run beside its place and moves it there."""
    write_files(file.parent, {file.name: json.dumps(record, indent=1) + "\n"})


def title_of(record: dict[str, Any]) -> str:
    """Says what was measured, where, and what the limits are."""
    machine, limits = record["machine"], record["limits"]
    where = f"{machine['device']}, {machine['threads']} threads, {record['dtype']}"
    return (
        f"{record['preset']} on {where}\n"
        f"limits: {limits['flops'] / 1e9:,.0f} GFLOP/s (matrix product), {limits['bandwidth'] / 1e9:,.1f} GB/s (copy)"
    )


MEGABYTE = 10**6
COLUMNS = ("part", "case", "seconds", "rate", "of limit", "faster than", "peak", "note")


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns a row's cells in the order of `COLUMNS`."""
    share = "" if row["share"] is None else f"{row['share']:.0%} {row['bound']}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} x {row['baseline']}"
    # resident memory does not resolve less: freed pages are used again
    peak = "" if row["peak"] is None or row["peak"] < MEGABYTE else f"{row['peak'] / MEGABYTE:,.0f} MB"
    rate = f"{row['rate']:,.3g} {row['unit']}/s" if row["rate"] < 1000 else f"{row['rate']:,.0f} {row['unit']}/s"
    return (row["part"], row["case"], f"{row['timing']['seconds']:.4g}", rate, share, ratio, peak, row["note"])


def as_table(record: dict[str, Any]) -> "Table":
    """Returns a run as a table for a terminal."""
    from rich.table import Table

    table = Table(*COLUMNS, title=title_of(record), title_justify="left")
    last = None
    for row in record["rows"]:
        if row["part"] != last and last is not None:
            table.add_section()
        last = row["part"]
        table.add_row(*cells_of(row))
    for part, reason in record["skipped"].items():
        table.add_row(part, "left out", "", "", "", "", "", reason)
    return table


def as_markdown(record: dict[str, Any]) -> str:
    """Returns a run as a Markdown table for a document."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells_of(row)) + " |" for row in record["rows"]]
    lines += [f"| {part} | left out | | | | | | {reason} |" for part, reason in record["skipped"].items()]
    return "\n".join(lines) + "\n"
