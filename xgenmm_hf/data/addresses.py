"""Images by address: finds the downloaded image of a `url`, `uid` or `key`.

img2dataset writes shards: a table `00000.parquet` (url, key, status ...) next to the folder `00000/` or the archive
`00000.tar` with one `KEY.jpg` per image. Your own table has a column `url`, `uid` or `key` and a column `path`.
The index is a SQLite file in the cache folder, because the addresses of a set may not fit into memory.
Source: https://github.com/rom1504/img2dataset (README, output formats).
"""

import glob
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import replacing
from xgenmm_hf.data.fields import ADDRESS_FIELDS, IMAGE_FIELDS, RejectedRecord, first_field
from xgenmm_hf.data.image_refs import PathRefused, Roots, image_ref, tar_members
from xgenmm_hf.data.records import find_files, make_shards, read_shard
from xgenmm_hf.data.rows import ImageRef


INDEX_FORM = 1  # raise it when the same tables give another index than before
EXTENSIONS = ("jpg", "png", "webp")
TABLES = ("*.parquet", "*.csv", "*.tsv", "*.jsonl")
SEVERAL = ""


class AddressTable(NamedTuple):
    """Finds downloaded images in an index that `index_addresses` made."""

    path: str

    def find(self, field: str, value: str) -> ImageRef | None:
        """Returns a reference to the downloaded image of an address, or None if there is none."""
        query = "SELECT place FROM images WHERE name = ?"
        found = _connect(self.path, os.getpid()).execute(query, (f"{field}:{value}",)).fetchone()
        if found is not None and found[0] == SEVERAL:
            raise RejectedRecord("image", f"several downloaded images have the key {value!r:.80}: use url or uid")
        return None if found is None else image_ref(found[0])


@lru_cache(maxsize=16)
def _connect(index: str, process: int) -> sqlite3.Connection:
    # One per process: a connection must not be used in a process other than the one that opened it.
    return sqlite3.connect(f"file:{index}?mode=ro", uri=True, check_same_thread=False)


def index_addresses(tables: Sequence[str], cache: Path) -> str:
    """Indexes downloaded images, or finds the index of an earlier call; returns its path."""
    from filelock import FileLock

    patterns: list[str] = []
    for name in tables:
        inside = (path for end in TABLES for path in glob.glob(os.path.join(glob.escape(name), end)))
        patterns += sorted(inside) if os.path.isdir(name) else [name]
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
    with replacing(index) as draft, closing(sqlite3.connect(draft)) as connection:
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
                "path or what img2dataset writes (status, key and the images next to the table)."
            )


def _entries(shard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (field:value, place) of every downloaded image of a table."""
    table = Path(shard["path"])
    folder, archive = table.with_suffix(""), table.with_suffix(".tar")
    members = tar_members(str(archive)) if archive.is_file() else {}
    roots = Roots(default=table.parent)

    def place_of(record: Mapping[str, Any]) -> str | None:
        column = first_field(record, IMAGE_FIELDS)
        if column is not None and isinstance(record[column], str):
            try:
                return roots.resolve(record[column])
            except PathRefused:
                return None
        for name in (f"{record.get('key')}.{extension}" for extension in EXTENSIONS):
            if name in members:
                return "tar://{}::{}#{}+{}".format(name, archive.absolute(), *members[name])
            if (folder / name).is_file():
                return str((folder / name).absolute())
        return None

    for found in read_shard(shard):
        record = found.record
        if isinstance(record, RejectedRecord) or record.get("status") not in (None, "success"):
            continue
        if (place := place_of(record)) is not None:
            yield from ((f"{name}:{record[name]}", place) for name in ADDRESS_FIELDS if record.get(name) is not None)
