"""Answers on disk as they come: JSONL files, one a process, from which a run that was killed goes on.

A line is `{"id", "key", "answer"}`, or `{"id", "key", "problem"}` for a sample whose image turned out unreadable.
The key is a digest of everything that decides the answer, so that lines of a run with other settings are never taken
for this run's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The answers of one evaluation in one folder.

    Args:
        folder: Where the files are; it is made when the first answer is written.
        rank: Number of this process; it writes a file of its own and reads all.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self.folder = folder
        self.file = folder / ("answers.jsonl" if rank == 0 else f"answers-{rank}.jsonl")

    def read(self) -> dict[str, dict[str, Any]]:
        """Reads the lines of all processes; a half-written last line is left out."""
        found: dict[str, dict[str, Any]] = {}
        for file in sorted(self.folder.glob("answers*.jsonl")):
            for line in self._lines_of(file):
                if "answer" in line or "answer" not in found.get(line["key"], {}):
                    found[line["key"]] = line
        return found

    def append(self, lines: list[Mapping[str, Any]]) -> None:
        """Writes lines at the end of this process's file, after a half-written one was cut off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.file.is_file():
            self._cut_half_line()
        with self.file.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def _cut_half_line(self) -> None:
        """Cuts the file behind its last line break."""
        with self.file.open("rb+") as file:
            size = file.seek(0, 2)
            end = size
            while end > 0 and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end -= 1
            file.truncate(end)

    @staticmethod
    def _lines_of(file: Path) -> list[dict[str, Any]]:
        """Returns the whole lines of a file."""
        lines = []
        *whole, _half = file.read_bytes().split(b"\n")
        for number, text in enumerate(whole, 1):
            try:
                line = json.loads(text)
                if not {"id", "key"} <= line.keys():
                    raise KeyError("id")
            except (ValueError, KeyError, AttributeError):
                raise ValueError(
                    f"{file}, line {number} is damaged: delete that line, and its sample will be asked again."
                ) from None
            lines.append(line)
        return lines
