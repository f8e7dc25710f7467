"""Lazy references to images: what a training row holds instead of pixels.

A reference is `{"bytes": bytes | None, "path": str | None}`; bytes win, and the path then only names the image.
Nothing is decoded before `open_image`; `image_size` reads the header alone. Paths that data files state are
resolved by `Roots`, which never lets them leave the folders they belong to.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from xgenmm_hf.data.rows import ImageRef
from xgenmm_hf.inference.images import image_errors
from xgenmm_hf.inference.images import open_image as open_file


ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
DRIVE = re.compile(r"[a-zA-Z]:")


class UnreadableImage(ValueError):
    """An image that cannot be read; its message is one sentence that names it and the reason."""


class PathRefused(ValueError):
    """An image's path that no root covers, or that would leave its root."""


def image_ref(path: str | os.PathLike[str] | None = None, data: bytes | None = None) -> ImageRef:
    """Builds a reference.

    Args:
        path: The file, or with `data` only a name for messages.
        data: The encoded image (PNG, JPEG, ...).

    Returns:
        The reference.
    """
    return {"bytes": data, "path": None if path is None else os.fspath(path)}


def image_name(ref: Any) -> str:
    """Returns what to call an image in a message."""
    if isinstance(ref, Mapping):
        return ref.get("path") or f"of {len(ref.get('bytes') or b'')} bytes"
    return f"in memory ({type(ref).__name__})"


def open_image(ref: Any) -> Image.Image:
    """Opens and decodes an image.

    Args:
        ref: A reference, or an image already in memory.

    Returns:
        The image in RGB.

    Raises:
        UnreadableImage: If it is missing, damaged, no image, or larger than Pillow's limit.
    """
    if isinstance(ref, Image.Image):
        with reading(image_name(ref)):
            return ref.convert("RGB")
    data, path = _parts(ref)
    if data is None:
        try:
            return open_file(path)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
    with reading(image_name(ref)), Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def image_size(ref: Any) -> tuple[int, int]:
    """Reads an image's size from its header; no pixel is decoded.

    Args:
        ref: A reference, or an image already in memory.

    Returns:
        (height, width) in pixels, as `open_image` would have it.

    Raises:
        UnreadableImage: If the header cannot be read, or says more pixels than Pillow's limit.
    """
    if isinstance(ref, Image.Image):
        return ref.height, ref.width
    data, path = _parts(ref)
    if data is None and not Path(path).is_file():
        raise UnreadableImage(f"There is no image at {path}: check the path.")
    with reading(image_name(ref)), Image.open(path if data is None else io.BytesIO(data)) as image:
        return image.height, image.width


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns every failure to read an image into `UnreadableImage`.

    Args:
        name: What to call the image.

    Raises:
        UnreadableImage: For every failure inside the block.
    """
    try:
        with image_errors(name):
            yield
    except ValueError as error:
        raise UnreadableImage(str(error)) from error


def _parts(ref: Any) -> tuple[bytes | None, str]:
    """Splits a reference into its bytes and its path."""
    if not isinstance(ref, Mapping) or (ref.get("bytes") is None and not ref.get("path")):
        raise UnreadableImage(f"{ref!r:.80} is no image: a reference names bytes or a path.")
    if ref.get("bytes") == b"":
        raise UnreadableImage(f"The image {image_name(ref)} is empty (0 bytes).")
    return ref.get("bytes"), ref.get("path") or ""


class Roots:
    """Turns the paths that a data file states into files on this machine.

    Args:
        table: First components of a path -> the folder that they stand for; the longest match wins. The empty prefix
            covers every other relative path. Prefixes may be absolute, for data files that state absolute paths.
        default: Folder for relative paths where the table has no empty prefix; None: those paths are refused.
    """

    def __init__(
        self,
        table: Mapping[str, str | os.PathLike[str]] | None = None,
        default: str | os.PathLike[str] | None = None,
    ):
        folders = {_components(prefix): os.path.abspath(folder) for prefix, folder in (table or {}).items()}
        if default is not None:
            folders.setdefault((), os.path.abspath(default))
        self._folders = dict(sorted(folders.items(), key=lambda item: -len(item[0])))

    def resolve(self, path: str) -> str:
        """Returns the absolute path of an image; whether the file exists is not looked at.

        Args:
            path: The path as the data file states it.

        Returns:
            The path inside the folder of its prefix.

        Raises:
            PathRefused: If it is an address, leaves its root, or no root covers it.
        """
        if ADDRESS.match(path):
            raise PathRefused(f"the image {path!r} is an address: download the images and state their paths")
        parts = _components(path)
        if not parts or "\0" in path or ".." in parts or DRIVE.match(path):
            raise PathRefused(f"the image's path {path!r} is empty or leaves its root")
        for prefix, folder in self._folders.items():
            # The empty prefix does not cover absolute paths: their first component is "/" or "//".
            if parts[: len(prefix)] == prefix and len(parts) > len(prefix) and not parts[len(prefix)].startswith("/"):
                return os.path.join(folder, *parts[len(prefix) :])
        known = ", ".join(repr("/".join(prefix)) for prefix in self._folders) or "none"
        raise PathRefused(f"no root covers the image's path {path!r} (roots: {known})")


def _components(path: str) -> tuple[str, ...]:
    """Splits a path into its components, `.` and doubled slashes left out."""
    return tuple(PurePosixPath(path.replace("\\", "/")).parts)
