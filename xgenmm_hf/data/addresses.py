"""Images by address: where the downloaded image of a `url`, `uid` or `key` lies.

Web-scale sets publish addresses. What img2dataset downloads lies in shards: a table `00000.parquet` (url, key, status
and the columns that were carried along) beside the folder `00000/` or the archive `00000.tar` with one `KEY.jpg` per
image. A table of one's own is read too: a column `url`, `uid` or `key` and a column `path`.
Source: https://github.com/rom1504/img2dataset (README, output formats).

The index is a SQLite file beside the caches, as a set has more addresses than fit into memory.
"""

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from xgenmm_hf.data.fields import ADDRESS_FIELDS, IMAGE_FIELDS, RejectedRecord, first_field
from xgenmm_hf.data.image_refs import PathRefused, Roots, image_ref, tar_members
from xgenmm_hf.data.records import find_files, make_shards, read_shard
from xgenmm_hf.data.rows import ImageRef


INDEX_FORM = 1  # raise it when the same tables give another index than before
EXTENSIONS = ("jpg", "png", "webp")
TABLES = ("*.parquet", "*.csv", "*.tsv", "*.jsonl")
SEVERAL = ""


class AddressTable:
    """Finds downloaded images in an index that `index_addresses` made."""

    def __init__(self, index: str):
        self.index = index
        self._open: tuple[int, sqlite3.Connection] | None = None

    def find(self, field: str, value: str) -> ImageRef | None:
        """Finds an image."""
        # A connection must not be used in another process than the one that opened it.
        if self._open is None or self._open[0] != os.getpid():
            connection = sqlite3.connect(f"file:{self.index}?mode=ro", uri=True, check_same_thread=False)
            self._open = (os.getpid(), connection)
        found = self._open[1].execute("SELECT place FROM images WHERE name = ?", (f"{field}:{value}",)).fetchone()
        if found is not None and found[0] == SEVERAL:
            raise RejectedRecord("image", f"several downloaded images have the key {value!r:.80}: use url or uid")
        return None if found is None else image_ref(found[0])


def index_addresses(tables: Sequence[str], cache: Path) -> str:
    """Indexes downloaded images, or finds the index of an earlier call."""
    from filelock import FileLock

    patterns = [os.path.join(name, end) for name in tables if os.path.isdir(name) for end in TABLES]
    patterns = [pattern for pattern in patterns if list(Path(pattern).parent.glob(Path(pattern).name))]
    patterns += [name for name in tables if not os.path.isdir(name)]
    if not patterns:
        raise ValueError(f"There is no table of images in {', '.join(tables)}: img2dataset writes one per shard.")
    shards = make_shards(find_files(patterns))
    key = hashlib.sha256(json.dumps([INDEX_FORM, shards], sort_keys=True).encode()).hexdigest()[:16]
    index = cache / f"addresses-{key}.sqlite"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{index}.lock"):
        if not index.is_file():
            _write_index(shards, index)
    return str(index)


def _write_index(shards: list[dict[str, Any]], index: Path) -> None:
    """Writes an index beside its place and moves it there."""
    with tempfile.TemporaryDirectory(prefix=".addresses-", dir=index.parent) as folder:
        part = Path(folder) / index.name
        with closing(sqlite3.connect(part)) as connection:
            connection.execute("CREATE TABLE images (name TEXT PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID")
            for shard in shards:
                # The same address or uid twice is the same image twice; the same key is another image.
                connection.executemany(
                    "INSERT INTO images VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET "
                    "place = CASE WHEN name LIKE 'key:%' AND place != excluded.place THEN '' ELSE place END",
                    _entries(shard),
                )
            connection.commit()
            if connection.execute("SELECT COUNT(*) FROM images").fetchone()[0] == 0:
                raise ValueError(
                    f"{shards[0]['path']} names no downloaded image: it needs a column url, uid or key, and either "
                    "path or what img2dataset writes (status, key and the images beside the table)."
                )
        os.replace(part, index)


def _entries(shard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (field:value, place) of every downloaded image of a table."""
    table = Path(shard["path"])
    places = _Places(table)
    for found in read_shard(shard):
        record = found.record
        if isinstance(record, RejectedRecord) or record.get("status") not in (None, "success"):
            continue
        place = places.of(record)
        if place is not None:
            yield from ((f"{name}:{record[name]}", place) for name in ADDRESS_FIELDS if record.get(name) is not None)


class _Places:
    """Where the images of one table lie."""

    def __init__(self, table: Path):
        self.folder, self.archive = table.with_suffix(""), table.with_suffix(".tar")
        self.roots = Roots(default=table.parent)
        self.members = tar_members(str(self.archive)) if self.archive.is_file() else {}

    def of(self, record: Mapping[str, Any]) -> str | None:
        column = first_field(record, IMAGE_FIELDS)
        if column is not None and isinstance(record[column], str):
            try:
                return self.roots.resolve(record[column])
            except PathRefused:
                return None
        names = [f"{record.get('key')}.{extension}" for extension in EXTENSIONS]
        for name in names:
            if name in self.members:
                start, size = self.members[name]
                return f"tar://{name}::{self.archive.absolute()}#{start}+{size}"
            if (self.folder / name).is_file():
                return str((self.folder / name).absolute())
        return None
