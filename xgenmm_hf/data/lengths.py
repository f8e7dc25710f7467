"""How many tokens and tiles a training row takes, without decoding an image: sizes come from the files' headers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from xgenmm_hf.data.encoding import check_parts, count_tiles_and_tokens, render_chat, render_content, render_row
from xgenmm_hf.data.image_refs import UnreadableImage, image_size


MODALITIES = ("text", "image", "images")
COLUMNS = ("num_tokens", "num_tiles", "modality")


class RowLength(NamedTuple):
    """What a row takes.

    Attributes:
        num_text_tokens: Tokens of its text.
        num_image_tokens: Tokens of its images.
        num_tiles: Tiles of its images.
        modality: `"text"`, `"image"` (one image) or `"images"` (several).
    """

    num_text_tokens: int
    num_image_tokens: int
    num_tiles: int
    modality: str

    @property
    def num_tokens(self) -> int:
        """All its tokens."""
        return self.num_text_tokens + self.num_image_tokens


def measure_row(row: Mapping[str, Any], processor: Any, image_aspect_ratio: str | None = None) -> RowLength:
    """Measures a row of any form.

    An image whose header cannot be read counts as one tile: the collator will leave the row out and report it.

    Args:
        row: A training row; of a preference row the longer answer counts.
        processor: An `XGenMMProcessor`.
        image_aspect_ratio: Mode of the image processor; default: its own.

    Returns:
        Its lengths, nothing cut off.

    Raises:
        ValueError: If the row has no known form.
    """
    images = row.get("images") or ()
    sizes = [_size(image, processor) for image in images]
    counts = count_tiles_and_tokens(processor, sizes, image_aspect_ratio)
    lengths = [len(processor.tokenizer(text)["input_ids"]) for text in _texts(row, processor)]
    return RowLength(
        # An image's one `<image>` is counted with its tokens.
        num_text_tokens=max(lengths) - len(images),
        num_image_tokens=sum(tokens for _, tokens in counts),
        num_tiles=sum(tiles for tiles, _ in counts),
        modality=MODALITIES[min(len(images), 2)],
    )


def add_lengths(dataset: Any, processor: Any, num_proc: int | None = None, image_aspect_ratio: str | None = None):
    """Adds the columns `num_tokens`, `num_tiles` and `modality` that sampling by length needs.

    The measured columns are cached by the library under a fingerprint of the rows, the tokenizer, the chat template
    and the grids; the rows themselves are not copied. Measure a source before its rows are selected or shuffled:
    joining columns to rows behind an index makes the library write those rows anew.

    Args:
        dataset: A `datasets.Dataset` of training rows.
        processor: An `XGenMMProcessor`.
        num_proc: Processes that measure; default: this one.
        image_aspect_ratio: Mode of the image processor; default: its own.

    Returns:
        The dataset with the three columns.
    """
    from datasets import concatenate_datasets

    rows = dataset.remove_columns([name for name in COLUMNS if name in dataset.column_names])
    key = f"{rows._fingerprint}/{describe_processor(processor, image_aspect_ratio)}"
    measured = rows.map(
        _columns_of,
        fn_kwargs={"processor": processor, "image_aspect_ratio": image_aspect_ratio},
        remove_columns=rows.column_names,
        num_proc=num_proc,
        new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:16],
        desc="Measuring rows",
    )
    return concatenate_datasets([rows, measured], axis=1)


def describe_processor(processor: Any, image_aspect_ratio: str | None = None) -> str:
    """Describes all of a processor that decides lengths, the same in every process and after every call.

    Args:
        processor: An `XGenMMProcessor`.
        image_aspect_ratio: Mode of the image processor; default: its own.

    Returns:
        A digest.
    """
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


def _columns_of(row: Mapping[str, Any], processor: Any, image_aspect_ratio: str | None) -> dict[str, Any]:
    """Returns the three columns of a row."""
    length = measure_row(row, processor, image_aspect_ratio)
    return {"num_tokens": length.num_tokens, "num_tiles": length.num_tiles, "modality": length.modality}


def _size(image: Any, processor: Any) -> tuple[int, int]:
    """Returns an image's (height, width); a tile's for an image that cannot be read."""
    try:
        return image_size(image)
    except UnreadableImage:
        side = processor.image_processor.size["height"]
        return side, side


def _texts(row: Mapping[str, Any], processor: Any) -> list[str]:
    """Renders a row: one text, or one for each answer of a preference row."""
    if row.get("content"):
        return [render_content(processor, row)]
    if row.get("chosen"):
        check_parts({**row, "messages": [*row["chosen"], *row["rejected"]]})
        prompt = list(row.get("prompt") or [])
        return [render_chat(processor, [*prompt, *row[name]]).text for name in ("chosen", "rejected")]
    return [render_row(processor, row).text]
