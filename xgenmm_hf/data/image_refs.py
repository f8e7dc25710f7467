"""Lazy references to images: what a training row holds instead of pixels.

A reference is `{"bytes": bytes | None, "path": str | None}`; bytes win, and the path then only names the image. A path
is a file, or a member of an archive in the form that `datasets` writes: `zip://MEMBER::ARCHIVE`, `tar://...`.
"""

import hashlib
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from xgenmm_hf.data.rows import ImageRef
from xgenmm_hf.modeling.images_xgenmm import ADDRESS, read_image, read_size


DRIVE = re.compile(r"[a-zA-Z]:")
MEMBER = re.compile(r"(?P<kind>zip|tar)://(?P<member>.+)::(?P<archive>.+?)(?:#(?P<start>\d+)\+(?P<size>\d+))?")
ARCHIVES = {".zip": "zip", ".tar": "tar"}
# Limits of file systems, in bytes: of a path, and of one of its names.
LONGEST_PATH, LONGEST_NAME = 4095, 255


class UnreadableImage(ValueError):
    """An image that cannot be read; its message is one sentence that names it and the reason."""


class PathRefused(ValueError):
    """An image's path that no root covers, or that would leave its root."""


def image_ref(path: str | os.PathLike[str] | None = None, data: bytes | None = None) -> ImageRef:
    """Returns a reference to an image by its path, its encoded bytes, or both."""
    return {"bytes": data, "path": None if path is None else os.fspath(path)}


def image_name(ref: Any) -> str:
    """Returns the name of an image in messages."""
    if isinstance(ref, Mapping):
        return ref.get("path") or f"of {len(ref.get('bytes') or b'')} bytes"
    return os.fspath(ref) if isinstance(ref, (str, os.PathLike)) else f"in memory ({type(ref).__name__})"


def image_key(ref: Any) -> str:
    """Returns a key that is equal for references to the same image in the same place; decodes no file."""
    if isinstance(ref, Image.Image):
        return hashlib.sha256(f"{ref.mode} {ref.size} ".encode() + ref.tobytes()).hexdigest()
    if ref.get("digest"):
        return ref["digest"]
    path = os.path.realpath(ref["path"])
    found = os.stat(path) if os.path.isfile(path) else None
    return f"{path} {found and found.st_size} {found and found.st_mtime_ns}"


def open_image(ref: Any) -> Image.Image:
    """Opens an image as RGB; see `read_image` for its rotation and conversion."""
    with reading():
        return read_image(_source(ref), image_name(ref))


def image_size(ref: Any) -> tuple[int, int]:
    """Reads an image's size from its header; no pixel is decoded."""
    with reading():
        return read_size(_source(ref), image_name(ref))


def png_bytes(image: Image.Image) -> bytes:
    """Encodes an image as PNG, fast."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()


@contextmanager
def reading() -> Iterator[None]:
    """Turns every failure to read an image into `UnreadableImage`."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UnreadableImage(str(error)) from error


def _source(ref: Any) -> Any:
    """Returns what `read_image` takes: a path, encoded bytes, or an image in memory."""
    if isinstance(ref, (str, os.PathLike)):
        ref = image_ref(ref)
    elif isinstance(ref, Image.Image):
        return ref
    if not isinstance(ref, Mapping) or (ref.get("bytes") is None and not ref.get("path")):
        raise UnreadableImage(f"{ref!r:.80} is no image: a reference names bytes or a path.")
    member = MEMBER.fullmatch(ref["path"]) if ref.get("bytes") is None else None
    return ref if member is None else _read_member(member)


def _read_member(member: re.Match) -> bytes:
    archive, name = member["archive"], member["member"]
    try:
        if member["kind"] == "zip":
            return _zip_file(archive, os.getpid()).read(name)
        start, size = (member["start"], member["size"]) if member["start"] else tar_members(archive)[name]
        with open(archive, "rb") as file:
            file.seek(int(start))
            return file.read(int(size))
    except KeyError:
        raise UnreadableImage(f"There is no image {name} in {archive}: check the path.") from None
    except (OSError, tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise UnreadableImage(f"The image {name} of {archive} cannot be read ({error}).") from error


@lru_cache(maxsize=16)
def _zip_file(archive: str, process: int) -> zipfile.ZipFile:
    # One per process, because processes that share an open file also share its read position.
    return zipfile.ZipFile(archive)


@lru_cache(maxsize=16)
def tar_members(archive: str) -> dict[str, tuple[int, int]]:
    """Lists the files of an uncompressed tar archive."""
    with tarfile.open(archive, "r:") as file:
        return {member.name: (member.offset_data, member.size) for member in file if member.isfile()}


class Roots:
    """Maps the image paths of a data file to files on this machine.

    The table maps the first components of a path to a folder or archive (.zip, .tar); the longest match wins. ""
    covers all other relative paths; its default is the `default` folder. If that is None, such paths are refused.
    """

    def __init__(
        self, table: Mapping[str, str | os.PathLike[str]] | None = None, default: str | os.PathLike[str] | None = None
    ):
        folders = {_components(prefix): os.path.abspath(folder) for prefix, folder in (table or {}).items()}
        if default is not None:
            folders.setdefault((), os.path.abspath(default))
        self._folders = dict(sorted(folders.items(), key=lambda item: -len(item[0])))

    def resolve(self, path: str) -> str:
        """Returns the absolute path of an image; does not check that the file exists."""
        if ADDRESS.match(path):
            raise PathRefused(f"the image {path!r:.200} is an address: name a table of its downloaded images")
        parts = _components(path)
        if not parts or "\0" in path or ".." in parts or DRIVE.match(path):
            raise PathRefused(f"the image's path {path!r:.200} is empty or leaves its root")
        for prefix, folder in self._folders.items():
            # The empty prefix does not cover absolute paths: their first component is "/" or "//".
            if parts[: len(prefix)] == prefix and len(parts) > len(prefix) and not parts[len(prefix)].startswith("/"):
                return self._inside(folder, parts[len(prefix) :], path)
        known = ", ".join(repr("/".join(prefix)) for prefix in self._folders) or "none"
        raise PathRefused(f"no root covers the image's path {path!r:.200} (roots: {known})")

    def _inside(self, folder: str, parts: tuple[str, ...], path: str) -> str:
        kind = ARCHIVES.get(os.path.splitext(folder)[1].lower())
        if kind is not None:
            return f"{kind}://{'/'.join(parts)}::{folder}"
        found = os.path.join(folder, *parts)
        names = [os.fsencode(part) for part in parts]
        if len(os.fsencode(found)) > LONGEST_PATH or max(map(len, names)) > LONGEST_NAME:
            raise PathRefused(f"the image's path {path!r:.60} has {len(path)} characters, more than a path may have")
        if not os.path.realpath(found).startswith(_boundary(folder)):
            raise PathRefused(f"the image's path {path!r:.200} is a link that leads out of its root {folder}")
        return found


@lru_cache(maxsize=256)
def _boundary(folder: str) -> str:
    """Returns the folder that links in a root must not leave: the root, or the Hub's cache folder of a snapshot."""
    parent = os.path.dirname(folder)
    is_snapshot = os.path.basename(parent) == "snapshots"
    return os.path.join(os.path.realpath(os.path.dirname(parent) if is_snapshot else folder), "")


def _components(path: str) -> tuple[str, ...]:
    """Splits a path into its components, without `.` and doubled slashes."""
    return tuple(PurePosixPath(path.replace("\\", "/")).parts)
