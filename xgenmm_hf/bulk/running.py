"""Runs a `BulkGenerator` over rows: batches ahead in threads, one JSON line per row, resumable, in shards.

A shard answers every n-th batch, so a row's batch is the same however many shards there are, and so is its answer.
It appends to ``OUT.3-of-8.part``; when the parts of all shards are complete, the last one merges them into OUT.
"""

import heapq
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.bulk.engines import BulkAnswer, BulkGenerator
from xgenmm_hf.bulk.rows import BulkRow, read_rows
from xgenmm_hf.conversion.files import replacing, write_text


_END_LINE = b'{"complete": true}\n'
_Batch = list[tuple[int, BulkRow]]


class BulkRun(NamedTuple):
    """What a run did."""

    output: Path  # the merged file, or this shard's part where other shards are not complete
    rows: int  # of this shard
    errors: int  # rows of this run without an answer
    resumed: int  # rows of an earlier run
    merged: bool


def generate(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    generator: BulkGenerator,
    *,
    batch_size: int = 8,
    shard: tuple[int, int] = (0, 1),
    workers: int = 2,
    image_root: str | os.PathLike[str] | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> BulkRun:
    """Answers every row of a source and writes JSON Lines.

    A line is ``{"index", "row", "text"}``, or ``{"index", "row", "error"}`` for a row that cannot be answered. A run
    that was stopped resumes when it is started again with the same options. Options and provenance are written next to
    the answers, into ``OUT.run.json``.
    """
    from filelock import FileLock, Timeout

    target, (number, count) = Path(out), shard
    if target.exists():
        raise FileExistsError(f"{target} is there already: name another file, or remove it to make it again.")
    if not 0 <= number < count or batch_size < 1 or workers < 1:
        raise ValueError(f"shard {number + 1}/{count}, batch size {batch_size}, {workers} workers: each from 1 up.")
    rows = read_rows(source, image_root)
    first = next(rows, None)  # what is wrong with the source is said before a model is loaded
    if first is None:
        raise ValueError(f"There is no image in {source}: give a folder, a data file or a data set that has some.")
    target.parent.mkdir(parents=True, exist_ok=True)
    header = _header(source, generator, batch_size, count)
    parts = [target.with_name(f"{target.name}.{one + 1}-of-{count}.part") for one in range(count)]
    part, lock = parts[number], FileLock(f"{parts[number]}.lock", timeout=0)
    try:
        with lock:
            done, complete = _recover(part, header, batch_size)
            if on_rows is not None:
                on_rows(done)
            errors = 0
            if not complete:
                batches = islice(_batches(chain([first], rows), batch_size), number, None, count)
                errors = _append(part, generator, islice(batches, done // batch_size, None), workers, on_rows)
    except Timeout:
        raise ValueError(f"Another process writes {part}: wait for it, or stop it first.") from None
    Path(lock.lock_file).unlink(missing_ok=True)
    total = sum(1 for _ in _lines(part))
    merged = all(_is_complete(one, header) for one in parts)
    if merged:
        with replacing(target) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(line for _, line in heapq.merge(*(_lines(one) for one in parts)))
        report = {**json.loads(header), "provenance": generator.provenance}
        write_text(target.with_suffix(".run.json"), json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        for one in parts:
            one.unlink()
    return BulkRun(target if merged else part, total, errors, done, merged)


def _header(source: Any, generator: BulkGenerator, batch_size: int, count: int) -> bytes:
    """Returns a part's first line, what decides the answers; a part that begins otherwise is another run's."""
    names = ("model", "prompt", "system", "max_new_tokens", "engine", "dtype")
    chosen = {name: getattr(generator, name) for name in names}
    return json.dumps({"source": str(source), **chosen, "batch_size": batch_size, "shards": count}).encode() + b"\n"


def _batches(rows: Iterable[BulkRow], size: int) -> Iterator[_Batch]:
    numbered = enumerate(rows)
    while batch := list(islice(numbered, size)):
        yield batch


def _recover(part: Path, header: bytes, batch_size: int) -> tuple[int, bool]:
    """Begins a part or cuts it back to its last whole batch; returns its number of rows, and if it is complete."""
    if not part.is_file() or not part.stat().st_size:
        part.write_bytes(header)
        return 0, False
    with part.open("rb+") as file:
        if file.readline() != header:
            raise ValueError(f"{part} was begun with another source, model, prompt or option: remove it, or go back.")
        rows, place = 0, len(header)
        kept = place
        for line in file:
            if line == _END_LINE:
                return rows, True
            if not line.endswith(b"\n"):
                break
            rows, place = rows + 1, place + len(line)
            kept = place if rows % batch_size == 0 else kept
        file.truncate(kept)
    return rows - rows % batch_size, False


def _append(
    part: Path,
    generator: BulkGenerator,
    batches: Iterable[_Batch],
    workers: int,
    on_rows: Callable[[int], None] | None,
) -> int:
    """Answers batches and appends their rows, then the mark of completeness; returns how many rows are errors."""
    errors = 0
    with part.open("a", encoding="utf-8") as file:
        for batch, prepared in _ahead(batches, generator, workers):
            answers = generator.answer(prepared.result())
            file.writelines(_line(index, row, one) for (index, row), one in zip(batch, answers, strict=True))
            file.flush()
            errors += sum(one.error is not None for one in answers)
            if on_rows is not None:
                on_rows(len(batch))
        file.write(_END_LINE.decode())
    return errors


def _ahead(batches: Iterable[_Batch], generator: BulkGenerator, workers: int) -> Iterator[tuple[_Batch, Future]]:
    """Prepares batches in threads, in order; never more than `workers` + 1 of them wait."""
    generator.loaded  # noqa: B018  (here, and not in several threads at once)
    waiting: deque[tuple[_Batch, Future]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(generator.prepare, [row for _, row in batch])))
            if len(waiting) > workers:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _line(index: int, row: BulkRow, answer: BulkAnswer) -> str:
    outcome = {"text": answer.text} if answer.error is None else {"error": answer.error}
    return json.dumps({"index": index, "row": row.name, **outcome}, ensure_ascii=False) + "\n"


def _lines(part: Path) -> Iterator[tuple[int, str]]:
    """Yields the rows of a part by their index."""
    with part.open(encoding="utf-8") as file:
        next(file)
        yield from ((json.loads(line)["index"], line) for line in file if line != _END_LINE.decode())


def _is_complete(part: Path, header: bytes) -> bool:
    if not part.is_file():
        return False
    with part.open("rb") as file:
        begun = file.readline() == header
        file.seek(max(0, part.stat().st_size - len(_END_LINE)))
        return begun and file.read() == _END_LINE
