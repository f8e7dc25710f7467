"""What became of the records of a source: counts, and every problem with its place and reason in a file."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xgenmm_hf.data.adapters.base import RecordProblem, RejectedRecord


logger = logging.getLogger(__name__)

PROBLEMS, COUNTS = "problems.jsonl", "counts.jsonl"
LOGGED_PROBLEMS = 5
SMALLEST_SAMPLE = 100


@dataclass
class SourceReport:
    """What became of the records of one source.

    Args:
        source: Name of the data set.
        format: Its format.
        kind: Kind of its rows.
        files: Its files.
        records: Records read; None while streaming, as is the number of rows.
        rows: Rows they became.
        rejected: Malformed records by kind of problem.
        skipped: Well-formed records that the recipe leaves out, by kind.
        problems_file: JSON lines with every one of both; None while streaming.
    """

    source: str
    format: str
    kind: str
    files: list[str]
    records: int | None = None
    rows: int | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    problems_file: str | None = None

    def problems(self) -> Iterator[dict[str, Any]]:
        """Yields every problem as `{"source", "file", "id", "outcome", "kind", "reason"}`."""
        if self.problems_file is not None and Path(self.problems_file).is_file():
            with open(self.problems_file, encoding="utf-8") as file:
                yield from map(json.loads, file)

    def check(self, max_rejected: float) -> None:
        """Checks that not too many records are malformed.

        Args:
            max_rejected: Largest share of rejected records.

        Raises:
            ValueError: If there are more, or no row is left.
        """
        rejected = sum(self.rejected.values())
        share = rejected / max(1, self.records or 0)
        if self.rows and share <= max_rejected:
            return
        first = next((item for item in self.problems() if item["outcome"] == "rejected"), None)
        example = f"; the first is {first['id']} of {first['file']}: {first['reason']}" if first else ""
        if not self.rows:
            raise ValueError(f"{self.source} gives no row from {self.records} record(s){example}.")
        raise ValueError(
            f"{rejected} of {self.records} records of {self.source} are malformed ({share:.1%}), more than "
            f"max_rejected allows ({max_rejected:.1%}){example}; all are listed in {self.problems_file}."
        )

    def save(self, file: Path) -> None:
        """Writes the report as JSON."""
        file.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "SourceReport":
        """Reads a saved report."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))


class Tally:
    """Counts what becomes of a shard's records, and writes problems down at once, so that none are kept in memory.

    Args:
        source: Name of the data set.
        folder: Where `problems.jsonl` and `counts.jsonl` grow; None: problems are logged, and judged on the way.
        max_rejected: Largest share of rejected records, judged here only without a folder.
    """

    def __init__(self, source: str, folder: str | None, max_rejected: float):
        self.source = source
        self.folder = None if folder is None else Path(folder)
        self.max_rejected = max_rejected
        self.records = self.rows = self.logged = 0
        self.rejected: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def add(self, problem: RecordProblem, file: str, id: str) -> None:
        """Counts and notes a problem.

        Raises:
            ValueError: Without a folder, if the share of rejected records is too large.
        """
        rejected = isinstance(problem, RejectedRecord)
        (self.rejected if rejected else self.skipped)[problem.kind] += 1
        if self.folder is not None:
            outcome = "rejected" if rejected else "skipped"
            entry = {"source": self.source, "file": file, "id": id, "outcome": outcome, "kind": problem.kind}
            _append(self.folder / PROBLEMS, {**entry, "reason": problem.reason})
            return
        if not rejected:
            return
        self.logged += 1
        if self.logged <= LOGGED_PROBLEMS:
            logger.warning("%s, %s of %s: %s", self.source, id, file, problem.reason)
        if self.rejected.total() > self.max_rejected * max(self.records, SMALLEST_SAMPLE):
            raise ValueError(
                f"{self.rejected.total()} of the first {self.records} records of {self.source} are malformed, more "
                f"than max_rejected allows ({self.max_rejected:.1%}); the last is {id} of {file}: {problem.reason}."
            )

    def close(self) -> None:
        """Writes the counts down."""
        if self.folder is not None:
            counts = {"records": self.records, "rows": self.rows, "rejected": self.rejected, "skipped": self.skipped}
            _append(self.folder / COUNTS, counts)


def _append(file: Path, entry: dict[str, Any]) -> None:
    """Appends one line to a file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry, ensure_ascii=False) + "\n")


def sum_counts(folder: Path, report: SourceReport) -> SourceReport:
    """Adds the counts of all shards to a report.

    Args:
        folder: Where the tallies wrote.
        report: A report without counts; it is changed and returned.
    """
    totals: dict[str, Counter] = {"rejected": Counter(), "skipped": Counter()}
    report.records = report.rows = 0
    for counts in _lines(folder / COUNTS):
        report.records += counts["records"]
        report.rows += counts["rows"]
        for name, total in totals.items():
            total.update(counts[name])
    report.rejected, report.skipped = dict(totals["rejected"]), dict(totals["skipped"])
    report.problems_file = str(folder / PROBLEMS)
    return report


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    """Returns the entries of a file of JSON lines, none if it does not exist."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
