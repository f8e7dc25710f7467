"""How many tokens and tiles a training row takes, without decoding an image: sizes come from the files' headers."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xgenmm_hf.data.encoding import check_parts, count_tiles_and_tokens, render_chat, render_content, render_row
from xgenmm_hf.data.image_refs import UnreadableImage, image_size


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


MODALITIES = ("text", "image", "images")
COLUMNS = ("num_tokens", "num_tiles", "modality")
BATCH_ROWS = 256
# Starting processes takes seconds: it pays from so many rows on.
LARGE, MOST_PROCESSES = 20_000, 8


class RowLength(NamedTuple):
    """What a row takes; the modality is "text", "image" (one image) or "images" (several)."""

    num_text_tokens: int
    num_image_tokens: int
    num_tiles: int
    modality: str

    @property
    def num_tokens(self) -> int:
        """All its tokens."""
        return self.num_text_tokens + self.num_image_tokens


def measure_rows(
    rows: Sequence[Mapping[str, Any]], processor: "XGenMMProcessor", image_aspect_ratio: str | None = None
) -> list[RowLength]:
    """Measures rows of any form.

    An image whose header cannot be read counts as one tile: the collator will leave the row out and report it.
    """
    sizes = [[_size(image, processor) for image in row.get("images") or ()] for row in rows]
    distinct = list({size for of_row in sizes for size in of_row})
    counts = dict(zip(distinct, count_tiles_and_tokens(processor, distinct, image_aspect_ratio), strict=True))
    texts = [_texts(row, processor) for row in rows]
    flat = [text for of_row in texts for text in of_row]
    encoded = iter(processor.tokenizer(flat, return_attention_mask=False)["input_ids"] if flat else ())
    measured = []
    for of_row, sizes_of_row in zip(texts, sizes, strict=True):
        longest = max(len(next(encoded)) for _ in of_row)
        taken = [counts[size] for size in sizes_of_row]
        modality = MODALITIES[min(len(taken), 2)]
        # An image's one `<image>` is counted with its tokens.
        text, tiles = longest - len(taken), sum(tiles for tiles, _ in taken)
        measured.append(RowLength(text, sum(tokens for _, tokens in taken), tiles, modality))
    return measured


def add_lengths(
    dataset: Any, processor: "XGenMMProcessor", num_proc: int | None = None, image_aspect_ratio: str | None = None
) -> Any:
    """Adds the columns `num_tokens`, `num_tiles` and `modality` that sampling by length needs.

    The measured columns are cached by the library under a fingerprint of the rows, the tokenizer, the chat template
    and the grids; the rows themselves are not copied. Measure a source before its rows are selected or shuffled:
    joining columns to rows behind an index makes the library write those rows anew.

    Args:
        dataset: A `datasets.Dataset` of training rows.
        processor: An `XGenMMProcessor`.
        num_proc: Processes that measure; default: one per core, at most 8, for large data sets, else this one.
        image_aspect_ratio: Mode of the image processor; default: its own.

    Returns:
        The dataset with the three columns.
    """
    from datasets import concatenate_datasets

    rows = dataset.remove_columns([name for name in COLUMNS if name in dataset.column_names])
    key = f"{rows._fingerprint}/{describe_processor(processor, image_aspect_ratio)}"
    if num_proc is None and len(rows) >= LARGE:
        num_proc = min(MOST_PROCESSES, os.cpu_count() or 1)
    measured = rows.map(
        _columns_of,
        batched=True,
        batch_size=BATCH_ROWS,
        fn_kwargs={"processor": processor, "image_aspect_ratio": image_aspect_ratio},
        remove_columns=rows.column_names,
        num_proc=num_proc,
        new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:16],
        desc="Measuring rows",
    )
    return concatenate_datasets([rows, measured], axis=1)


def describe_processor(processor: "XGenMMProcessor", image_aspect_ratio: str | None = None) -> str:
    """Describes all of a processor that decides lengths, the same in every process and after every call."""
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    # What the last call asked for stays in the tokenizer, but changes no length.
    state = {name: value for name, value in tokenizer.items() if name not in ("padding", "truncation")}
    images = processor.image_processor
    described = [
        state,
        processor.chat_template,
        [processor.num_latents, processor.anyres_patch_sampling],
        [image_aspect_ratio or images.image_aspect_ratio, images.anyres_grids, images.size["height"]],
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _columns_of(
    columns: Mapping[str, list], processor: "XGenMMProcessor", image_aspect_ratio: str | None
) -> dict[str, list]:
    """Returns the three columns of a batch of rows."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    lengths = measure_rows(rows, processor, image_aspect_ratio)
    return {name: [getattr(length, name) for length in lengths] for name in COLUMNS}


def _size(image: Any, processor: "XGenMMProcessor") -> tuple[int, int]:
    """Returns an image's (height, width); a tile's for an image that cannot be read."""
    try:
        return image_size(image)
    except UnreadableImage:
        side = processor.image_processor.size["height"]
        return side, side


def _texts(row: Mapping[str, Any], processor: "XGenMMProcessor") -> list[str]:
    """Renders a row: one text, or one for each answer of a preference row."""
    if row.get("content"):
        return [render_content(processor, row)]
    if row.get("chosen"):
        check_parts({**row, "messages": [*row["chosen"], *row["rejected"]]})
        prompt = list(row.get("prompt") or [])
        return [render_chat(processor, [*prompt, *row[name]]).text for name in ("chosen", "rejected")]
    return [render_row(processor, row).text]
