"""Answers on disk as they come: JSONL files, one per process, from which a run that was killed is resumed.

A line is `{"id", "key", "answer"}`, or `{"id", "key", "problem"}` for a sample whose image turned out unreadable.
The key is a digest of everything that decides the answer, so that lines of a run with other settings are never taken
for this run's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The answers of one evaluation in one folder; each process writes a file of its own and reads all."""

    def __init__(self, folder: Path, rank: int = 0):
        self.folder = folder
        self.file = folder / ("answers.jsonl" if rank == 0 else f"answers-{rank}.jsonl")

    def read(self) -> dict[str, dict[str, Any]]:
        """Returns key -> line of all processes; a half-written last line is left out."""
        found: dict[str, dict[str, Any]] = {}
        for file in sorted(self.folder.glob("answers*.jsonl")):
            *whole, _half = file.read_bytes().split(b"\n")
            for number, text in enumerate(whole, 1):
                try:
                    line = json.loads(text)
                    key, _ = line["key"], line["id"]
                except (ValueError, KeyError, TypeError):
                    raise ValueError(
                        f"{file}, line {number} is damaged: delete that line, and its sample will be asked again."
                    ) from None
                if "answer" in line or "answer" not in found.get(key, {}):
                    found[key] = line
        return found

    def append(self, lines: list[Mapping[str, Any]]) -> None:
        """Writes lines at the end of this process's file, after a half-written one was cut off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab+") as file:
            end = file.seek(0, 2)
            while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end -= 1
            file.truncate(end)
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
