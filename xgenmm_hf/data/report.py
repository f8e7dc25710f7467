"""What became of the records of a source: counts, and every problem with its place and reason in a file."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xgenmm_hf.data.fields import RecordProblem, RejectedRecord


logger = logging.getLogger(__name__)

PROBLEMS, COUNTS = "problems.jsonl", "counts.jsonl"
COUNTED = ("rejected", "skipped", "notes")
LOGGED_PROBLEMS = 5
SMALLEST_SAMPLE = 100


@dataclass
class SourceReport:
    """What became of the records of one source, counted by kind of problem.

    `skipped` are well-formed records that the recipe leaves out, `notes` what was taken although it is out of the
    ordinary. Numbers of records and rows and the file of problems (JSON lines) are None while streaming. In a mixture
    a source gives so many samples, or rows with the probability `weight`.
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
            with open(self.problems_file, encoding="utf-8") as file:
                yield from map(json.loads, file)

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

    def save(self, file: Path) -> None:
        """Writes the report as JSON."""
        file.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "SourceReport":
        """Reads a saved report."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def sum_counts(self, folder: Path) -> None:
        """Takes over the counts of all shards, as their tallies wrote them."""
        totals = {name: Counter[str]() for name in COUNTED}
        self.records = self.rows = 0
        counts = folder / COUNTS
        for line in counts.read_text(encoding="utf-8").splitlines() if counts.is_file() else ():
            entry = json.loads(line)
            self.records += entry["records"]
            self.rows += entry["rows"]
            for name, total in totals.items():
                total.update(entry[name])
        self.rejected, self.skipped, self.notes = (dict(totals[name]) for name in COUNTED)
        self.problems_file = str(folder / PROBLEMS)


class Tally:
    """Counts what becomes of a shard's records, and writes problems down at once, so that none are kept in memory.

    `problems.jsonl` and `counts.jsonl` grow in a folder; without one problems are logged, and judged on the way.
    """

    def __init__(self, source: str, folder: str | None, max_rejected: float):
        self.source = source
        self.folder = None if folder is None else Path(folder)
        self.max_rejected = max_rejected
        self.records = self.rows = self.logged = 0
        self.rejected, self.skipped, self.notes = Counter[str](), Counter[str](), Counter[str]()

    def add(self, problem: RecordProblem, file: str, id: str) -> None:
        """Counts and notes a problem."""
        rejected = isinstance(problem, RejectedRecord)
        (self.rejected if rejected else self.skipped)[problem.kind] += 1
        if self.folder is not None:
            outcome = "rejected" if rejected else "skipped"
            entry = {"source": self.source, "file": file, "id": id, "outcome": outcome, "kind": problem.kind}
            self._append(PROBLEMS, {**entry, "reason": problem.reason})
            return
        self.logged += 1
        if self.logged <= LOGGED_PROBLEMS:
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
        with (self.folder / name).open("a", encoding="utf-8", errors="backslashreplace") as lines:  # type: ignore[operator]
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
