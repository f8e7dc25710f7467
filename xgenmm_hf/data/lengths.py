"""The numbers of tokens and tiles of training rows, from their texts and their images' headers."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xgenmm_hf.data.encoding import TURNS, EncodedText, count_tiles_and_tokens, encode_texts, render_texts
from xgenmm_hf.data.image_refs import UnreadableImage, image_size
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


MODALITIES = ("text", "image", "images")
COLUMNS = ("num_tokens", "num_tiles", "modality")
# The row's `EncodedText` (None for a preference pair), and the key of what it was made from.
TEXT_COLUMNS = ("text_ids", "text_targets", "text_key")
BATCH_ROWS = 256
# Starting processes takes seconds: smaller data sets are measured in one.
LARGE, MOST_PROCESSES = 20_000, 8


class RowLength(NamedTuple):
    """The tokens and tiles of a row; the modality is "text", "image" (one image) or "images" (several)."""

    num_text_tokens: int
    num_image_tokens: int
    num_tiles: int
    modality: str

    @property
    def num_tokens(self) -> int:
        """The number of text and image tokens."""
        return self.num_text_tokens + self.num_image_tokens


def encode_rows(rows: Sequence[Mapping[str, Any]], processor: XGenMMProcessor) -> list[list[EncodedText]]:
    """Encodes the texts of rows of any kind, see `render_texts`."""
    texts = [render_texts(processor, row) for row in rows]
    encoded = iter(encode_texts(processor, [text for of_row in texts for text in of_row]))
    return [[next(encoded) for _ in of_row] for of_row in texts]


def measure_rows(
    rows: Sequence[Mapping[str, Any]],
    processor: XGenMMProcessor,
    image_aspect_ratio: str | None = None,
    encoded: Sequence[Sequence[EncodedText]] | None = None,
) -> list[RowLength]:
    """Measures rows of any kind, by their longest text; `encoded` holds their texts if they are encoded already.

    An image whose header cannot be read counts as one tile: the collator will drop the row and report it.
    """
    sizes = [[_size(image, processor) for image in row.get("images") or ()] for row in rows]
    distinct = list({size for of_row in sizes for size in of_row})
    counts = dict(zip(distinct, count_tiles_and_tokens(processor, distinct, image_aspect_ratio), strict=True))
    measured = []
    for texts, sizes_of_row in zip(encoded or encode_rows(rows, processor), sizes, strict=True):
        taken = [counts[size] for size in sizes_of_row]
        # An image's one `<image>` is counted with its tokens.
        num_text_tokens = max(len(text.input_ids) for text in texts) - len(taken)
        num_tiles, num_image_tokens = (sum(column) for column in zip((0, 0), *taken, strict=True))
        measured.append(RowLength(num_text_tokens, num_image_tokens, num_tiles, MODALITIES[min(len(taken), 2)]))
    return measured


def add_lengths(
    dataset: Any, processor: XGenMMProcessor, num_proc: int | None = None, image_aspect_ratio: str | None = None
) -> Any:
    """Adds the columns `num_tokens`, `num_tiles` and `modality` that sampling by length needs, and the rows' tokens.

    Collators with the same tokenizer and chat template take the tokens from the columns `text_ids` and
    `text_targets` (about as much disk as the texts) instead of making them again. `datasets` caches the measured
    columns under a fingerprint of the rows, the tokenizer, the chat template and the grids; it does not copy the rows
    themselves. Measure a source before you select or shuffle rows: `datasets` rewrites selected rows to add columns.

    Args:
        dataset: A `datasets.Dataset` of training rows.
        processor: An `XGenMMProcessor`.
        num_proc: Number of processes; default: one per core, at most 8, for large data sets, else only this one.
        image_aspect_ratio: Mode of the image processor; default: its own.

    Returns:
        The dataset with the columns.
    """
    from datasets import Features, List, Value, concatenate_datasets

    columns = (*COLUMNS, *TEXT_COLUMNS)
    rows = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    key = f"{rows._fingerprint}/{columns}/{describe_processor(processor, image_aspect_ratio)}"
    if num_proc is None and len(rows) >= LARGE:
        num_proc = min(MOST_PROCESSES, os.cpu_count() or 1)
    types = dict.fromkeys(columns, Value("string")) | dict.fromkeys(COLUMNS[:2], Value("int64"))
    types |= {"text_ids": List(Value("int32")), "text_targets": List(Value("bool"))}
    measured = rows.map(
        _columns_of,
        batched=True,
        batch_size=BATCH_ROWS,
        fn_kwargs={"processor": processor, "mode": image_aspect_ratio, "described": describe_texts(processor)},
        remove_columns=rows.column_names,
        features=Features(types),
        num_proc=num_proc,
        new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:16],
        desc="Measuring rows",
    )
    return concatenate_datasets([rows, measured], axis=1)


def describe_texts(processor: XGenMMProcessor) -> str:
    """Returns a digest of what decides the tokens of texts, equal in all processes and after any call."""
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    # The tokenizer keeps the padding and truncation of its last call, which change no token.
    state = {name: value for name, value in tokenizer.items() if name not in ("padding", "truncation")}
    described = json.dumps([state, processor.chat_template], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def describe_processor(processor: XGenMMProcessor, image_aspect_ratio: str | None = None) -> str:
    """Returns a text that differs between processors that give different lengths."""
    images = processor.image_processor
    sampling = [processor.num_latents, processor.anyres_patch_sampling, images.anyres_grids, images.size["height"]]
    return f"{describe_texts(processor)}/{image_aspect_ratio or images.image_aspect_ratio}/{sampling}"


def text_key(row: Mapping[str, Any], described: str) -> str:
    """Returns a digest of a row's texts and of `described`, the `describe_texts` of its processor."""
    texts = repr([described, *(row.get(name) for name in ("content", *TURNS))])
    return hashlib.sha256(texts.encode(errors="surrogatepass")).hexdigest()[:16]


def _columns_of(
    columns: Mapping[str, list], processor: XGenMMProcessor, mode: str | None, described: str
) -> dict[str, list]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    encoded = encode_rows(rows, processor)
    lengths = measure_rows(rows, processor, mode, encoded)
    kept = [texts[0] if len(texts) == 1 else None for texts in encoded]
    return {
        **{name: [getattr(length, name) for length in lengths] for name in COLUMNS},
        "text_ids": [text and text.input_ids for text in kept],
        "text_targets": [text and text.is_target for text in kept],
        "text_key": [text_key(row, described) for row in rows],
    }


def _size(image: Any, processor: XGenMMProcessor) -> tuple[int, int]:
    """Returns an image's (height, width), or a tile's if the image cannot be read."""
    try:
        return image_size(image)
    except UnreadableImage:
        side = processor.image_processor.size["height"]
        return side, side
