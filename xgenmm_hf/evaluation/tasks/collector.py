"""Collecting samples: images are found and looked at, and every row that cannot be asked becomes a problem."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from xgenmm_hf.data.image_refs import PathRefused, Roots, UnreadableImage, image_ref, image_size
from xgenmm_hf.evaluation.samples import Problem, Sample
from xgenmm_hf.evaluation.tasks.reading import BadRow, Row


Images = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None


class EnoughSamples(Exception):
    """As many samples as wanted are there."""


class Collector:
    """Gathers the samples and the problems of a task.

    Images that rows hold as bytes are written to a temporary folder, so that memory holds one row at a time.

    Args:
        images: Folder that the data's relative paths of images start from, or a table from first components of
            paths to folders; None: the folder of the first file.
        files: The task's files.
        limit: Samples wanted; None: all.
    """

    def __init__(self, images: Images, files: Sequence[Path], limit: int | None = None):
        if isinstance(images, Mapping):
            self._roots = Roots(images)
        else:
            self._roots = Roots(default=files[0].parent if images is None else images)
        self._limit = limit
        self._fault_of_file = cache(_fault_of)  # files are looked at once
        self._ids: dict[str, str] = {}
        self._held: tempfile.TemporaryDirectory | None = None
        self.samples: list[Sample] = []
        self.problems: list[Problem] = []

    def collect(self, rows: Iterable[Row], make: Callable[[Mapping[str, Any]], Iterable[Sample]]) -> None:
        """Makes samples of rows; a row's first fault becomes a problem."""
        for row in rows:
            try:
                if isinstance(row.fields, BadRow):
                    raise row.fields
                if not isinstance(row.fields, Mapping):
                    raise BadRow(f"there is a {type(row.fields).__name__} where a row with fields belongs")
                for sample in make(row.fields):
                    self._add(row, sample)
            except BadRow as error:
                self.reject(row, str(error))

    def reject(self, row: Row, reason: str) -> None:
        """Notes a problem."""
        self.problems.append(Problem(row.source, row.where, reason))

    def image(self, value: Any) -> Any:
        """Makes an image's reference from what a row says."""
        path = value.get("path") if isinstance(value, Mapping) else value
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if isinstance(data, bytes) and data:
            return self._hold(data, path if isinstance(path, str) else "")
        if hasattr(path, "convert"):
            return path
        if not isinstance(path, str) or not path.strip():
            raise BadRow("the image is missing" if not path else f"the image is a {type(path).__name__}")
        try:
            return image_ref(self._roots.resolve(path.strip()))
        except PathRefused as error:
            raise BadRow(str(error)) from None

    def image_among(self, paths: Sequence[str]) -> Any:
        """Returns the reference of the first of several possible paths that is a file, or else of the first path."""
        refs = [self.image(path) for path in paths]
        return next((ref for ref in refs if os.path.isfile(ref["path"])), refs[0])

    def _hold(self, data: bytes, name: str) -> dict[str, Any]:
        """Writes an image that a row holds to the temporary folder; its digest tells it from others."""
        if self._held is None:
            self._held = tempfile.TemporaryDirectory(prefix="xgenmm-eval-")
        digest = hashlib.sha256(data).hexdigest()[:32]
        file = Path(self._held.name) / f"{digest}{Path(name).suffix.lower()}"
        if not file.is_file():
            file.write_bytes(data)
        # The reference keeps the folder: it goes when the last sample goes.
        return {**image_ref(file), "digest": digest, "folder": self._held}

    def _add(self, row: Row, sample: Sample) -> None:
        """Keeps a sample whose id is new and whose images are there."""
        if sample.id in self._ids:
            raise BadRow(f"the id {sample.id} was there before ({self._ids[sample.id]}); the first one counts")
        for image in sample.images:
            if fault := self._fault_of_file(image["path"]) if isinstance(image, Mapping) else _fault_of(image):
                raise BadRow(fault)
        self._ids[sample.id] = f"{row.source}, {row.where}"
        self.samples.append(sample)
        if len(self.samples) == self._limit:
            raise EnoughSamples


def _fault_of(image: Any) -> str:
    """Says what is wrong with an image as far as its header tells."""
    try:
        image_size(image)
    except UnreadableImage as error:
        return str(error).rstrip(".")
    return ""
