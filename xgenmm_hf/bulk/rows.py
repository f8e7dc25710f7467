"""What `xgenmm generate` reads: a folder, data files, archives or a data set, as rows with references to images.

Rows come one at a time and hold paths, not pixels: the images of a tar archive are places in it. Only Parquet files
and data sets carry encoded images with their rows.
"""

import glob
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.data.fields import IMAGE_FIELDS, Record, RejectedRecord, first_field
from xgenmm_hf.data.hub_sets import HubSet, hub_shards, keep_encoded
from xgenmm_hf.data.image_refs import PathRefused, Roots, image_ref
from xgenmm_hf.data.records import SUFFIXES, make_shards, read_shard
from xgenmm_hf.inference.source import REPO_ID


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")


class BulkRow(NamedTuple):
    """A row: what to call it, references to its images (see `data.image_refs`), and why it cannot be answered."""

    name: str
    images: tuple[Any, ...] = ()
    problem: str | None = None


def read_rows(source: str | os.PathLike[str], image_root: str | os.PathLike[str] | None = None) -> Iterator[BulkRow]:
    """Reads rows in an order that every process sees alike."""
    name = os.fspath(source)
    path = Path(name).expanduser()
    if (path / "state.json").is_file():
        from datasets import load_from_disk

        saved = enumerate(keep_encoded(load_from_disk(str(path))))
        yield from (_row(str(index), record, None) for index, record in saved)
        return
    if path.is_dir():
        yield from _folder_rows(path)
        return
    files = [path] if path.is_file() else sorted(Path(file) for file in glob.glob(str(path), recursive=True))
    if not files:
        if not REPO_ID.fullmatch(name):
            raise ValueError(f"There is nothing at {name}: give a folder, a data file, a pattern or a data set.")
        shards = hub_shards(HubSet(name), streaming=True)
        yield from (_row(found.place, found.record, None) for shard in shards for found in read_shard(shard))
        return
    for file in files:
        if file.suffix.lower() == ".tar":
            yield from _archive_rows(file)
        elif file.suffix.lower() in IMAGE_SUFFIXES:
            yield BulkRow(str(file), (image_ref(file),))
        elif file.suffix.lower() in SUFFIXES:
            root = os.path.abspath(image_root or file.parent)
            roots = Roots({"": root, root: root})
            for shard in make_shards([file]):
                yield from (_row(f"{file.name}:{found.place}", found.record, roots) for found in read_shard(shard))
        else:
            raise ValueError(f"{file} is neither an image nor a data file ({', '.join(SUFFIXES)}).")


def count_rows(source: str | os.PathLike[str]) -> int | None:
    """Counts rows where that takes no reading of records, for the time left; None elsewhere."""
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "state.json").is_file():
        return sum(1 for _ in _folder_rows(path))
    if path.is_file() and path.suffix.lower() in (".jsonl", ".ndjson"):
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    if path.is_file() and path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return pq.ParquetFile(path).metadata.num_rows
    return None


def _folder_rows(folder: Path) -> Iterator[BulkRow]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                path = os.path.join(place, file)
                yield BulkRow(os.path.relpath(path, folder), (image_ref(path),))


def _archive_rows(archive: Path) -> Iterator[BulkRow]:
    """Yields the images of an uncompressed tar archive as places in it; nothing but headers is read."""
    try:
        with tarfile.open(archive, "r:") as file:
            for member in file:
                if member.isfile() and os.path.splitext(member.name)[1].lower() in IMAGE_SUFFIXES:
                    place = f"{archive.absolute()}#{member.offset_data}+{member.size}"
                    yield BulkRow(f"{archive.name}/{member.name}", (image_ref(f"tar://{member.name}::{place}"),))
                file.members = []  # type: ignore[attr-defined]  # or the archive keeps a header of every file
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"The archive {archive} cannot be read ({error}): get it again.") from error


def _row(place: str, record: Record | RejectedRecord, roots: Roots | None) -> BulkRow:
    if isinstance(record, RejectedRecord):
        return BulkRow(place, problem=record.reason)
    field = first_field(record, IMAGE_FIELDS)
    name = str(record["id"]) if record.get("id") is not None else place
    if field is None:
        return BulkRow(name, problem=f"the row has no image: none of the fields {', '.join(IMAGE_FIELDS)}")
    try:
        return BulkRow(name, references(record[field], roots))
    except PathRefused as problem:
        return BulkRow(name, problem=str(problem))


def references(value: Any, roots: Roots | None = None) -> tuple[Any, ...]:
    """Turns an image or a list of images into references; paths are taken as they are where `roots` is None."""

    def reference(one: Any) -> Any:
        if isinstance(one, str):
            return image_ref(one if roots is None else roots.resolve(one))
        return image_ref(data=one) if isinstance(one, bytes) else one

    return tuple(map(reference, value if isinstance(value, (list, tuple)) else [value]))
