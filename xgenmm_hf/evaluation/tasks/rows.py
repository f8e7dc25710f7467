"""From the rows of a data set's files to samples; every row that cannot be asked becomes a problem."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.data.fields import RejectedRecord
from xgenmm_hf.data.image_refs import PathRefused, Roots, UnreadableImage, image_ref, image_size
from xgenmm_hf.data.records import make_shards, read_shard
from xgenmm_hf.evaluation.samples import Sample, SampleProblem


class BadRow(ValueError):
    """A row that cannot be evaluated; its message says why."""


class TaskRow(NamedTuple):
    """A row with its file, its place there, and its fields (a `BadRow`, or what else stands where a row belongs)."""

    source: str
    where: str
    fields: Any

    def rejected(self, reason: str) -> "TaskRow":
        """Returns the row as one that cannot be evaluated."""
        return self._replace(fields=BadRow(reason))

    def key(self, name: str) -> str | int | None:
        """Returns a field that joins rows, or None if it is missing or neither a text nor an integer."""
        value = self.fields.get(name) if isinstance(self.fields, Mapping) else None
        return value if isinstance(value, str | int) else None


def read_document(path: Path) -> dict[str, Any]:
    """Returns the contents of a JSON file that is one object; an empty dict for files of rows."""
    layouts = {shard["layout"] for shard in make_shards([path])}
    return read_json(path) if "object" in layouts else {}


def read_rows(paths: Sequence[Path]) -> Iterator[TaskRow]:
    """Yields the rows of files one by one."""
    for path in paths:
        for shard in make_shards([path]):
            for found in read_shard(shard):
                record = found.record
                where = f"line {found.place}" if shard["layout"] == "lines" else f"row {int(found.place) + 1}"
                fields = BadRow(record.reason) if isinstance(record, RejectedRecord) else record
                yield TaskRow(path.name, where, fields)


def numbered(path: Path, rows: Any, word: str = "row") -> Iterator[TaskRow]:
    """Yields the rows of a list with their numbers from 1."""
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__} where a list of rows belongs.")
    for number, fields in enumerate(rows, start=1):
        yield TaskRow(path.name, f"{word} {number}", fields)


def first_of(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Returns the first of several fields that is there and not None."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def text_of(fields: Mapping[str, Any], *names: str, optional: bool = False) -> str:
    """Returns a field as text; numbers become text."""
    value = first_of(fields, names)
    text = plain_text(value)
    if optional and (value is None or text == ""):
        return ""
    if not text:
        what = (
            "missing" if value is None else "empty" if text == "" else f"a {type(value).__name__}; it must be a text"
        )
        raise BadRow(f"{names[0]} is {what}")
    return text


def texts_of(fields: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """Returns the answers or captions of a field: a text, a list of texts, or a list of objects with "answer"."""
    value = first_of(fields, names)
    if value is None:
        raise BadRow(f"{names[0]} is missing")
    texts = []
    for one in value if isinstance(value, list | tuple) else [value]:
        text = plain_text(first_of(one, ("answer", "caption", "raw")) if isinstance(one, Mapping) else one)
        if text is None:
            raise BadRow(f"{names[0]} holds {one!r:.60}; it must hold texts")
        texts.append(text)
    if not any(texts):
        raise BadRow(f"{names[0]} is empty")
    return tuple(texts)


def plain_text(value: Any) -> str | None:
    """Returns a text or a number as text without spaces around it; None for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


class Collector:
    """Gathers the samples and the problems of a task, up to a number of samples.

    Relative paths of images start from a folder, by default the first file's. Images that rows hold as bytes are
    written to a temporary folder, so that memory holds one row at a time.
    """

    def __init__(self, images: str | Path | None, files: Sequence[Path], limit: int | None = None):
        self._roots, self._limit = Roots(default=images or files[0].parent), limit
        self._fault_of_file = cache(_fault_of)  # each file is checked once
        self._held: tempfile.TemporaryDirectory | None = None
        self.samples: list[Sample] = []
        self.problems: list[SampleProblem] = []

    def collect(
        self, rows: Iterable[TaskRow], make: Callable[[Mapping[str, Any], "Collector"], Iterable[Sample]]
    ) -> None:
        """Makes samples of rows; a row's first fault becomes a problem."""
        places: dict[str, str] = {}
        for row in rows:
            try:
                if isinstance(row.fields, BadRow):
                    raise row.fields
                if not isinstance(row.fields, Mapping):
                    raise BadRow(f"there is a {type(row.fields).__name__} where a row with fields belongs")
                for sample in make(row.fields, self):
                    if sample.id in places:
                        raise BadRow(
                            f"the id {sample.id} was there before ({places[sample.id]}); the first one counts"
                        )
                    places[sample.id] = f"{row.source}, {row.where}"
                    self.samples.append(sample)
                    if len(self.samples) == self._limit:
                        return
            except BadRow as error:
                self.problems.append(SampleProblem(row.source, row.where, str(error)))

    def image(self, *values: Any) -> dict[str, Any]:
        """Returns the reference of an image that a row holds or names; of several paths the first that is a file."""
        refs = [self._ref(value) for value in values]
        ref = next((ref for ref in refs if os.path.isfile(ref["path"])), refs[0])
        if fault := self._fault_of_file(ref["path"]):
            raise BadRow(fault)
        return ref

    def _ref(self, value: Any) -> dict[str, Any]:
        """Makes a reference from a path, encoded bytes, or a mapping of both."""
        path = value.get("path") if isinstance(value, Mapping) else value
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if isinstance(data, bytes) and data:
            return self._hold(data, path if isinstance(path, str) else "")
        if not isinstance(path, str) or not path.strip():
            raise BadRow("the image is missing" if not path else f"the image is a {type(path).__name__}")
        try:
            return {**image_ref(self._roots.resolve(path.strip()))}
        except PathRefused as error:
            raise BadRow(str(error)) from None

    def _hold(self, data: bytes, name: str) -> dict[str, Any]:
        """Writes an image that a row holds to the temporary folder, under its digest."""
        if self._held is None:
            self._held = tempfile.TemporaryDirectory(prefix="xgenmm-eval-")
        digest = hashlib.sha256(data).hexdigest()[:32]
        file = Path(self._held.name) / f"{digest}{Path(name).suffix.lower()}"
        if not file.is_file():
            file.write_bytes(data)
        # The reference keeps the folder alive: it is removed with the last sample.
        return {**image_ref(file), "digest": digest, "folder": self._held}


def _fault_of(path: str) -> str:
    """Returns the error of an image's header, or an empty text."""
    try:
        image_size(path)
    except UnreadableImage as error:
        return str(error).rstrip(".")
    return ""
