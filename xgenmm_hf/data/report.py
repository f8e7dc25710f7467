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

PROBLEMS = "problems.jsonl"
COUNTED = ("rejected", "skipped", "notes")
LOGGED_PROBLEMS = 5
SMALLEST_SAMPLE = 100


@dataclass
class SourceReport:
    """What became of the records of one source, counted by kind of problem.

    `skipped` are well-formed records that the recipe drops, `notes` oddities that were accepted. Numbers of records
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
        if self.problems_file is not None and Path(self.problems_file).is_file():
            with open(self.problems_file, encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def exceeds(self, max_rejected: float) -> bool:
        """Tells whether more than the share `max_rejected` of the records is malformed, or no row is left."""
        return not self.rows or sum(self.rejected.values()) > max_rejected * (self.records or 0)

    def check(self, max_rejected: float) -> None:
        """Raises a `ValueError` if too many records are malformed or no row is left."""
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


@dataclass
class Tally:
    """Counts what becomes of records; problems go to a file at once, or while streaming to the log."""

    source: str
    problems_file: str | None = None
    max_rejected: float = 1.0  # while streaming
    records: int = 0
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, problem: RecordProblem, file: str, id: str) -> None:
        """Counts a problem, and writes it to the file or the log; a stream raises if there are too many."""
        rejected = isinstance(problem, RejectedRecord)
        (self.rejected if rejected else self.skipped)[problem.kind] += 1
        if self.problems_file is not None:
            outcome = "rejected" if rejected else "skipped"
            entry = {"source": self.source, "file": file, "id": id, "outcome": outcome, "kind": problem.kind}
            with open(self.problems_file, "a", encoding="utf-8", errors="backslashreplace") as lines:
                lines.write(json.dumps({**entry, "reason": problem.reason}, ensure_ascii=False) + "\n")
            return
        if self.rejected.total() + self.skipped.total() <= LOGGED_PROBLEMS:
            logger.warning("%s, %s of %s: %s", self.source, id, file, problem.reason)
        if rejected and self.rejected.total() > self.max_rejected * max(self.records, SMALLEST_SAMPLE):
            raise ValueError(
                f"{self.rejected.total()} of the first {self.records} records of {self.source} are malformed, more "
                f"than max_rejected allows ({self.max_rejected:.1%}); the last is {id} of {file}: {problem.reason}."
            )

    def close(self) -> None:
        """Logs the counts of a stream, which has no file of problems."""
        if self.problems_file is None and any(getattr(self, name) for name in COUNTED):
            logger.warning("%s: %s", self.source, self.counts())

    def counts(self) -> dict[str, Any]:
        """Returns all counts by the names that they have in a `SourceReport`."""
        return {"records": self.records, "rows": self.rows, **{name: dict(getattr(self, name)) for name in COUNTED}}
