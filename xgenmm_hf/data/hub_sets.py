"""Data sets of the Hub by their id, read through `datasets`; also folders on disk that are laid out like one."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import one_line
from xgenmm_hf.data.fields import Record, RejectedRecord


class HubSet(NamedTuple):
    """A data set of the Hub by its id, or a folder laid out like its repository; None means the default or newest.

    Example:
        >>> from pathlib import Path
        >>> from xgenmm_hf import HubSet, load_rows
        >>> Path("chats").mkdir()
        >>> _ = Path("chats/train.jsonl").write_bytes(Path("examples/data/chats.jsonl").read_bytes())
        >>> load_rows("llava", HubSet("chats"), roots={"": "examples/data"}).dataset[0]["messages"][1]
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'lila'}]}
    """

    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None


def hub_shards(source: HubSet, streaming: bool, number: int = 1) -> list[dict[str, Any]]:
    """Returns the shards of a data set; a rank or worker can read each on its own."""
    rows = _load(source, streaming)
    count = max(1, min(number, rows.num_shards)) if streaming else 1
    if not streaming:
        mark = rows._fingerprint
    else:
        mark = hashlib.sha256(repr([*source, rows.info.download_checksums]).encode()).hexdigest()
    common = {"path": source.name, "layout": "hub", "source": list(source), "streaming": streaming, "mark": mark}
    return [{**common, "index": index, "count": count} for index in range(count)]


def read_hub_shard(shard: dict[str, Any]) -> Iterator[tuple[str, Record | RejectedRecord]]:
    """Reads the rows of a shard; images stay encoded."""
    rows = _load(HubSet(*shard["source"]), shard["streaming"])
    if shard["count"] > 1:
        rows = rows.shard(shard["count"], shard["index"])
    prefix = f"{shard['index']}-" if shard["count"] > 1 else ""
    for index, record in enumerate(rows):
        yield f"{prefix}{index}", record


def _load(source: HubSet, streaming: bool) -> Any:
    from datasets import load_dataset

    name = source.name
    try:
        rows = load_dataset(
            str(Path(name).absolute()) if Path(name).is_dir() else name,
            source.config,
            split=source.split,
            revision=source.revision,
            streaming=streaming,
        )
    except (OSError, ValueError, RuntimeError) as error:
        what = ", ".join(str(part) for part in source if part is not None)
        raise ValueError(f"The data set {what} cannot be loaded: {one_line(error):.400}.") from error
    return keep_encoded(rows)


def keep_encoded(rows: Any) -> Any:
    """Keeps images as bytes and paths, so that rows that are only counted are not decoded."""
    for name, feature in (rows.features or {}).items():
        rows = rows.cast_column(name, _undecoded(feature)) if _undecoded(feature) != feature else rows
    return rows


def _undecoded(feature: Any) -> Any:
    """Returns the type of a column whose images stay bytes and paths."""
    from datasets import Image, List

    if isinstance(feature, List):
        return List(_undecoded(feature.feature), length=feature.length)
    return Image(decode=False) if isinstance(feature, Image) else feature
