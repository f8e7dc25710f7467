"""What all collators share: reading images, cutting rows to a length, padding them into a batch.

A batch holds `input_ids`, `attention_mask`, `labels` (B, L), with images also `pixel_values` (num_tiles, 3, S, S),
`image_sizes` (num_images, 2) as (height, width) and `image_num_tiles` (num_images,), and two entries that trainers
take out before the model sees the batch: `row_ids` and `unreadable`, lists of strings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from xgenmm_hf.data.encoding import IGNORE_INDEX, EncodedRow, count_tiles_and_tokens, row_name
from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.modeling.tiling_xgenmm import ASPECT_RATIO_MODES


# An empty batch is long enough for a next token, so that the model and its loss run as on any other batch.
EMPTY_LENGTH = 2


@dataclass(frozen=True)
class Unreadable:
    """A row that was left out: an image of it cannot be read, or its prompt leaves no room for an answer.

    Args:
        row_id: The row's `id`.
        source: The row's `source`.
        reason: What is wrong with it.
    """

    row_id: str
    source: str
    reason: str

    def __str__(self) -> str:
        return f"Row {self.source}/{self.row_id} is left out: {self.reason}"


def read_images(rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Unreadable]]:
    """Opens the images of rows."""
    readable: list[dict[str, Any]] = []
    unreadable: list[Unreadable] = []
    for row in rows:
        try:
            images = [to_image(image) for image in row.get("images") or ()]
        except UnreadableImage as error:
            unreadable.append(Unreadable(str(row.get("id", "?")), str(row.get("source") or "rows"), str(error)))
        else:
            readable.append({**row, "images": images})
    return readable, unreadable


def to_image(image: Any) -> Image.Image:
    """Returns an image reference or a PIL image as an RGB PIL image."""
    image = open_image(image)
    if image.width == 0 or image.height == 0:
        raise UnreadableImage(f"An image is {image.width} x {image.height} pixels: it must not be empty.")
    return image


def image_lengths(processor: Any, row: Mapping[str, Any], image_aspect_ratio: str | None = None) -> list[int]:
    """Counts the tokens of a row's images."""
    sizes = [(image.height, image.width) for image in row["images"]]
    return [tokens for _, tokens in count_tiles_and_tokens(processor, sizes, image_aspect_ratio)]


def image_inputs(
    processor: Any, images: Sequence[Image.Image], image_aspect_ratio: str | None = None
) -> dict[str, torch.Tensor]:
    """Cuts a batch's images into tiles."""
    if not images:
        return {}
    return dict(processor.image_processor(list(images), image_aspect_ratio=image_aspect_ratio, return_tensors="pt"))


def pad_rows(
    input_ids: Sequence[np.ndarray], labels: Sequence[np.ndarray], pad_token_id: int, multiple: int | None = None
) -> dict[str, torch.Tensor]:
    """Pads rows on the right to a common length."""
    length = round_up(max(len(row) for row in input_ids), multiple)
    shape = (len(input_ids), length)
    ids, targets = np.full(shape, pad_token_id, dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for index, (row, row_labels) in enumerate(zip(input_ids, labels, strict=True)):
        ids[index, : len(row)], targets[index, : len(row)], mask[index, : len(row)] = row, row_labels, 1
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(targets),
    }


def empty_batch(pad_token_id: int, multiple: int | None = None) -> dict[str, torch.Tensor]:
    """Returns the batch of a step in which every row was unreadable, so that all ranks still run the model.

    Its one row of padding is attended to, as attention over nothing gives no numbers.
    """
    row = np.full(round_up(EMPTY_LENGTH, multiple), pad_token_id, dtype=np.int64)
    return pad_rows([row], [np.full_like(row, IGNORE_INDEX)], pad_token_id)


def round_up(length: int, multiple: int | None) -> int:
    """Rounds a length up to a multiple; None leaves it."""
    return length if not multiple else -(-length // multiple) * multiple


def check_options(max_length: int | None, pad_to_multiple_of: int | None, image_aspect_ratio: str | None) -> None:
    """Checks what every collator is given."""
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is {max_length}; give the number of tokens to keep, or None for all.")
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise ValueError(f"pad_to_multiple_of is {pad_to_multiple_of}; give a positive number, or None.")
    if image_aspect_ratio not in (None, *ASPECT_RATIO_MODES):
        modes = ", ".join(ASPECT_RATIO_MODES)
        raise ValueError(f"image_aspect_ratio is {image_aspect_ratio!r}; it must be one of {modes}, or None.")


def pad_token_id(processor: Any) -> int:
    """Returns the id to pad with."""
    if processor.tokenizer.pad_token_id is None:
        raise ValueError('The tokenizer has no padding token; set processor.tokenizer.pad_token = "<|endoftext|>".')
    return int(processor.tokenizer.pad_token_id)


def make_batch(
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    encoded: Sequence[EncodedRow],
    unreadable: Sequence[Unreadable] = (),
    pad_to_multiple_of: int | None = None,
    image_aspect_ratio: str | None = None,
) -> dict[str, Any]:
    """Puts encoded rows and their images into a batch."""
    notes = {"row_ids": [row_name(row) for row in rows], "unreadable": [str(row) for row in unreadable]}
    pad_id = pad_token_id(processor)
    if not rows:
        return {**empty_batch(pad_id, pad_to_multiple_of), **notes}
    shown = zip(rows, encoded, strict=True)
    images = [image for row, cut in shown for image in row["images"][: len(cut.image_lengths)]]
    ids, labels = [row.input_ids for row in encoded], [row.labels for row in encoded]
    padded = pad_rows(ids, labels, pad_id, pad_to_multiple_of)
    return {**padded, **image_inputs(processor, images, image_aspect_ratio), **notes}
