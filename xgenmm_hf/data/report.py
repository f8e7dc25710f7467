"""What became of the records of a source: counts, and every problem with its place and reason in a file."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xgenmm_hf.data.fields import RecordProblem, RejectedRecord


logger = logging.getLogger(__name__)

PROBLEMS, COUNTS = "problems.jsonl", "counts.jsonl"
COUNTED = ("rejected", "skipped", "notes")
LOGGED_PROBLEMS = 5
SMALLEST_SAMPLE = 100


def read_lines(file: str | Path | None) -> Iterator[dict[str, Any]]:
    """Yields the lines of a JSON lines file; none where there is no file."""
    if file is not None and Path(file).is_file():
        with open(file, encoding="utf-8") as lines:
            yield from map(json.loads, lines)


@dataclass
class SourceReport:
    """What became of the records of one source, counted by kind of problem.

    `skipped` are well-formed records that the recipe leaves out, `notes` oddities that were taken. Numbers of records
    and rows and the file of problems (JSON lines) are None while streaming. A mixture sets `samples` or `weight`.
    """

    source: str
    format: str
    kind: str
    files: list[str]
    records: int | None = None
    rows: int | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    problems_file: str | None = None
    samples: int | None = None
    weight: float | None = None

    def problems(self) -> Iterator[dict[str, Any]]:
        """Yields every problem as `{"source", "file", "id", "outcome", "kind", "reason"}`."""
        yield from read_lines(self.problems_file)

    def exceeds(self, max_rejected: float) -> bool:
        """Tells whether more than a share of the records are malformed, or no row is left."""
        return not self.rows or sum(self.rejected.values()) > max_rejected * (self.records or 0)

    def check(self, max_rejected: float) -> None:
        """Checks that not too many records are malformed."""
        if not self.exceeds(max_rejected):
            return
        first = next((item for item in self.problems() if item["outcome"] == "rejected" or not self.rows), None)
        example = f"; the first is {first['id']} of {first['file']}: {first['reason']}" if first else ""
        if not self.rows:
            raise ValueError(f"{self.source} gives no row from {self.records} record(s){example}.")
        rejected = sum(self.rejected.values())
        raise ValueError(
            f"{rejected} of {self.records} records of {self.source} are malformed "
            f"({rejected / (self.records or 1):.1%}), more than max_rejected allows ({max_rejected:.1%}){example}; "
            f"all are listed in {self.problems_file}."
        )

    def sum_counts(self, folder: Path) -> None:
        """Takes over the counts of all shards, as their tallies wrote them."""
        entries = list(read_lines(folder / COUNTS))
        self.records, self.rows = (sum(entry[name] for entry in entries) for name in ("records", "rows"))
        for name in COUNTED:
            setattr(self, name, dict(sum((Counter(entry[name]) for entry in entries), Counter())))
        self.problems_file = str(folder / PROBLEMS)


@dataclass
class Tally:
    """Counts what becomes of a shard's records; problems go to a file at once, or without a folder to the log."""

    source: str
    folder: str | None
    max_rejected: float
    records: int = 0
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, problem: RecordProblem, file: str, id: str) -> None:
        """Counts and notes a problem."""
        rejected = isinstance(problem, RejectedRecord)
        (self.rejected if rejected else self.skipped)[problem.kind] += 1
        if self.folder is not None:
            outcome = "rejected" if rejected else "skipped"
            entry = {"source": self.source, "file": file, "id": id, "outcome": outcome, "kind": problem.kind}
            self._append(PROBLEMS, {**entry, "reason": problem.reason})
            return
        if self.rejected.total() + self.skipped.total() <= LOGGED_PROBLEMS:
            logger.warning("%s, %s of %s: %s", self.source, id, file, problem.reason)
        if rejected and self.rejected.total() > self.max_rejected * max(self.records, SMALLEST_SAMPLE):
            raise ValueError(
                f"{self.rejected.total()} of the first {self.records} records of {self.source} are malformed, more "
                f"than max_rejected allows ({self.max_rejected:.1%}); the last is {id} of {file}: {problem.reason}."
            )

    def close(self) -> None:
        """Writes the counts down; a stream logs them, as nothing else tells what it left out."""
        counts = {"records": self.records, "rows": self.rows, **{name: dict(getattr(self, name)) for name in COUNTED}}
        if self.folder is not None:
            self._append(COUNTS, counts)
        elif any(counts[name] for name in COUNTED):
            logger.warning("%s: %s", self.source, counts)

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        with Path(self.folder or "", name).open("a", encoding="utf-8", errors="backslashreplace") as lines:
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
