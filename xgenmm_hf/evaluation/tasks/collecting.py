"""Collecting samples: images are found and looked at, and every row that cannot be asked becomes a problem."""

import base64
import binascii
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.data.image_refs import PathRefused, Roots, UnreadableImage, image_ref, image_size
from xgenmm_hf.evaluation.samples import Problem, Sample
from xgenmm_hf.evaluation.tasks.records import BadRow, Record


Images = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None


class Collector:
    """Gathers the samples and the problems of a task.

    Args:
        images: Folder that the data's relative paths of images start from, or a table from first components of
            paths to folders; None: the folder of the first file.
        files: The task's files.
    """

    def __init__(self, images: Images, files: Sequence[Path]):
        if isinstance(images, Mapping):
            self._roots = Roots(images)
        else:
            self._roots = Roots(default=files[0].parent if images is None else images)
        self._unreadable: dict[str, str | None] = {}
        self._ids: dict[str, str] = {}
        self.samples: list[Sample] = []
        self.problems: list[Problem] = []

    def collect(self, records: Iterable[Record], make: Callable[[Mapping[str, Any]], Iterable[Sample]]) -> None:
        """Makes samples of records; a record's first fault becomes a problem.

        Args:
            records: Rows with their places.
            make: Row -> its samples; raises `BadRow` for a fault.
        """
        for record in records:
            try:
                if isinstance(record.row, BadRow):
                    raise record.row
                if not isinstance(record.row, Mapping):
                    raise BadRow(f"there is a {type(record.row).__name__} where a row with fields belongs")
                for sample in make(record.row):
                    self._add(record, sample)
            except BadRow as error:
                self.reject(record, str(error))

    def reject(self, record: Record, reason: str) -> None:
        """Notes a problem."""
        self.problems.append(Problem(record.source, record.where, reason))

    def image(self, value: Any) -> Any:
        """Makes an image's reference from what a row says.

        Args:
            value: A path, encoded bytes, `{"bytes", "path"}`, or an image in memory.

        Returns:
            The reference; whether it can be read is not looked at.

        Raises:
            BadRow: If it is none of them, or its path is refused.
        """
        if isinstance(value, Mapping) and value.get("bytes"):
            return image_ref(value.get("path"), value["bytes"])
        path = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(path, bytes):
            return image_ref(data=path)
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

    def _add(self, record: Record, sample: Sample) -> None:
        """Keeps a sample whose id is new and whose images are there."""
        if sample.id in self._ids:
            raise BadRow(f"the id {sample.id} was there before ({self._ids[sample.id]}); the first one counts")
        for image in sample.images:
            if fault := self._fault(image):
                raise BadRow(fault)
        self._ids[sample.id] = f"{record.source}, {record.where}"
        self.samples.append(sample)

    def _fault(self, image: Any) -> str | None:
        """Says what is wrong with an image as far as its header tells; files are looked at once."""
        path = image["path"] if isinstance(image, Mapping) and image.get("bytes") is None else None
        if path is not None and path in self._unreadable:
            return self._unreadable[path]
        fault = None
        try:
            image_size(image)
        except UnreadableImage as error:
            fault = str(error).rstrip(".")
        if path is not None:
            self._unreadable[path] = fault
        return fault


def decode_base64(text: str) -> bytes:
    """Decodes an image that a table holds as text.

    Args:
        text: Base64.

    Returns:
        The encoded image.

    Raises:
        BadRow: If it is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRow("the image is no base64 text") from None
