"""Files and folders that appear whole or not at all, and the JSON in them.

Conversion, inference, training, evaluation and the Hub write through this module. A file is written next to its target
and then renamed; a folder is filled under a hidden name (see `output_folder`) and then moved to its target.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


UNFINISHED = ".xgenmm-unfinished-"
_LOCK = "lock"


def one_line(error: BaseException) -> str:
    """Returns another library's message on one line, without a full stop, to stand inside ours."""
    return " ".join(str(error).split()).rstrip(".")


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object from a file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); fetch it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file; empty where there is no file."""
    return read_json(path) if path.is_file() else {}


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object the way Transformers does, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a path next to `path` to write to; the file written there replaces `path` at the end.

    The bytes are on disk before the file moves. If anything fails, `path` stays as it was and the draft disappears.
    """
    target = Path(path).resolve()  # a link stays a link
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{uuid4().hex}{target.suffix}")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def check_output_folder(out: str | Path) -> Path:
    """Checks that a folder can be made or filled, before the work that fills it."""
    given = Path(out).expanduser()
    if given.is_symlink() and not given.exists():
        raise FileExistsError(f"{out} is a link that leads nowhere; remove it or name another folder.")
    path = given.resolve()
    place = path
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise FileExistsError(f"{place} is a file; name a folder that does not exist yet.")
    if place == path and any(not entry.name.startswith(UNFINISHED) for entry in path.iterdir()):
        raise FileExistsError(f"{out} is a folder that is not empty; name a new one or empty it.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{place} may not be written by this user; name another folder.")
    return path


@contextmanager
def output_folder(out: str | Path, needed_bytes: int = 0, notes: list[str] | None = None) -> Iterator[Path]:
    """Yields a hidden folder that becomes `out` at the end, or disappears if anything fails.

    If `out` does not exist, the hidden folder is created next to it and renamed. If it exists (an empty folder, a
    mount point), the hidden folder is created inside it and its entries move up, ``config.json`` last. Hidden folders
    of killed runs are removed, and `notes` gets a sentence that names them.
    """
    from filelock import FileLock

    path = check_output_folder(out)
    inside = path.is_dir()
    parent = path if inside else path.parent
    parent.mkdir(parents=True, exist_ok=True)
    prefix = UNFINISHED if inside else f"{UNFINISHED}{path.name[:100]}-"
    removed = _remove_leftovers(parent, prefix)
    if removed and notes is not None:
        notes.append(f"Removed what an interrupted run had left: {', '.join(map(str, removed))}.")
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise OSError(f"{parent} has {free / 1e9:.1f} GB free; the result takes {needed_bytes / 1e9:.1f} GB.")
    hidden = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with FileLock(hidden / _LOCK):
            staged = hidden / "files"
            staged.mkdir()
            yield staged
            if inside or check_output_folder(out).is_dir():
                folder = check_output_folder(out)
                for entry in sorted(staged.iterdir(), key=lambda entry: entry.name == "config.json"):
                    shutil.move(entry, folder / entry.name)
            else:
                staged.rename(path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _remove_leftovers(parent: Path, prefix: str) -> list[Path]:
    """Removes hidden folders whose lock no living process holds; returns them."""
    from filelock import FileLock, Timeout

    removed = []
    for hidden in sorted(parent.glob(f"{prefix}*")):
        try:
            with FileLock(hidden / _LOCK, timeout=0):
                shutil.rmtree(hidden)
        except (Timeout, OSError):
            continue
        removed.append(hidden)
    return removed
