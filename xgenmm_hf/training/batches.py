"""What all collators share: reading images, cutting rows to a length, padding them into a batch.

A batch holds `input_ids`, `attention_mask`, `labels` (B, L), with images also `pixel_values` (num_tiles, 3, S, S),
`image_sizes` (num_images, 2) as (height, width) and `image_num_tiles` (num_images,), and two entries that trainers
take out before the model sees the batch: `row_ids` and `unreadable`, lists of strings.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from xgenmm_hf.data.encoding import IGNORE_INDEX, count_tiles_and_tokens, row_name
from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.modeling.tiling_xgenmm import ASPECT_RATIO_MODES


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


# An empty batch is long enough for a next token, so that the model and its loss run as on any other batch.
EMPTY_LENGTH = 2


class Unreadable(NamedTuple):
    """A row that was left out, by its name: an image cannot be read, or its prompt leaves no room for an answer."""

    row: str
    reason: str

    def __str__(self) -> str:
        return f"Row {self.row} is left out: {self.reason}"


def read_images(rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Unreadable]]:
    """Opens the images of rows, given as references or PIL images, as RGB."""
    readable: list[dict[str, Any]] = []
    unreadable: list[Unreadable] = []
    for row in rows:
        try:
            images = [open_image(image) for image in row.get("images") or ()]
            if empty := next((image for image in images if 0 in image.size), None):
                raise UnreadableImage(f"An image is {empty.width} x {empty.height} pixels: it must not be empty.")
        except UnreadableImage as error:
            unreadable.append(Unreadable(row_name(row), str(error)))
        else:
            readable.append({**row, "images": images})
    return readable, unreadable


def pad_right(rows: Sequence[np.ndarray], filler: int, multiple: int | None = None) -> torch.Tensor:
    """Pads rows to their longest, and that to a multiple, (B, L)."""
    padded = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=filler)
    return padded if not multiple else pad(padded, (0, -padded.shape[1] % multiple), value=filler)


def pad_rows(
    input_ids: Sequence[np.ndarray], labels: Sequence[np.ndarray], pad_token_id: int, multiple: int | None = None
) -> dict[str, torch.Tensor]:
    """Pads rows on the right to a common length."""
    return {
        "input_ids": pad_right(input_ids, pad_token_id, multiple),
        "attention_mask": pad_right([np.ones_like(row) for row in input_ids], 0, multiple),
        "labels": pad_right(labels, IGNORE_INDEX, multiple),
    }


def empty_batch(pad_token_id: int, multiple: int | None = None) -> dict[str, torch.Tensor]:
    """Returns the batch of a step in which every row was unreadable, so that all ranks still run the model.

    Its one row of padding is attended to, as attention over nothing gives no numbers.
    """
    row = np.full(EMPTY_LENGTH, pad_token_id, dtype=np.int64)
    return pad_rows([row], [np.full_like(row, IGNORE_INDEX)], pad_token_id, multiple)


class BatchMaker:
    """What every collator is given, checked; see `RowCollator` for the arguments."""

    def __init__(
        self,
        processor: "XGenMMProcessor",
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        image_aspect_ratio: str | None = None,
    ):
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is {max_length}; give the number of tokens to keep, or None for all.")
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of is {pad_to_multiple_of}; give a positive number, or None.")
        if image_aspect_ratio not in (None, *ASPECT_RATIO_MODES):
            modes = ", ".join(ASPECT_RATIO_MODES)
            raise ValueError(f"image_aspect_ratio is {image_aspect_ratio!r}; it must be one of {modes}, or None.")
        if processor.tokenizer.pad_token_id is None:
            raise ValueError(
                'The tokenizer has no padding token; set processor.tokenizer.pad_token = "<|endoftext|>".'
            )
        self.processor = processor
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.image_aspect_ratio = image_aspect_ratio
        self.pad_token_id = int(processor.tokenizer.pad_token_id)

    def image_lengths(self, row: Mapping[str, Any]) -> list[int]:
        """Counts the tokens of a row's images."""
        sizes = [(image.height, image.width) for image in row["images"]]
        return [tokens for _, tokens in count_tiles_and_tokens(self.processor, sizes, self.image_aspect_ratio)]

    def image_inputs(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """Cuts a batch's images into tiles."""
        if not images:
            return {}
        options = {"image_aspect_ratio": self.image_aspect_ratio, "return_tensors": "pt"}
        return dict(self.processor.image_processor(images, **options))
