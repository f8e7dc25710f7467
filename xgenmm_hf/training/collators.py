"""Collators: training rows -> batches, of conversations, of documents, and of preference pairs.

A batch holds `input_ids`, `attention_mask`, `labels` (B, L), with images also `pixel_values` (num_tiles, 3, S, S),
`image_sizes` (num_images, 2) as (height, width) and `image_num_tiles` (num_images,), and two entries that trainers
take out before the model sees the batch: `row_ids` and `unreadable`, lists of strings. A batch of B pairs has 2B
sequences, all chosen ones first, and `completion_mask` in place of labels; its images are not repeated.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from xgenmm_hf.data.encoding import (
    EncodedRow,
    EncodedText,
    RenderedText,
    count_tiles_and_tokens,
    encode_texts,
    render_content,
    render_row,
    row_name,
    show_images,
)
from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.data.lengths import describe_texts, text_key
from xgenmm_hf.modeling.chat_xgenmm import IMAGE_TOKEN
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor
from xgenmm_hf.modeling.targets_xgenmm import IGNORE_INDEX
from xgenmm_hf.modeling.tiling_xgenmm import ASPECT_RATIO_MODES


# Length of an empty batch: it has a next token, so that the model and its loss run as on any other batch.
EMPTY_LENGTH = 2
SIDES = ("chosen", "rejected")


def left_out(row: Mapping[str, Any], reason: str) -> str:
    """Returns the message about a dropped row."""
    return f"Row {row_name(row)} is dropped: {reason}"


def read_images(rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Opens the images of rows as RGB; returns the readable rows, and a message for each other row."""
    readable: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for row in rows:
        try:
            images = [open_image(image) for image in row.get("images") or ()]
            if empty := next((image for image in images if 0 in image.size), None):
                raise UnreadableImage(f"An image is {empty.width} x {empty.height} pixels: it must not be empty.")
        except UnreadableImage as error:
            unreadable.append(left_out(row, str(error)))
        else:
            readable.append({**row, "images": images})
    return readable, unreadable


def pad_right(rows: Sequence[np.ndarray], filler: int, multiple: int | None = None) -> torch.Tensor:
    """Pads B rows on the right to one length L, which is a multiple of `multiple`; returns (B, L)."""
    padded = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=filler)
    return padded if not multiple else pad(padded, (0, -padded.shape[1] % multiple), value=filler)


class BatchMaker:
    """Base class of the collators: checks their options, pads rows and cuts images; see `SupervisedCollator`."""

    def __init__(
        self,
        processor: XGenMMProcessor,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        image_aspect_ratio: str | None = None,
    ):
        for name, number in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; give a positive number of tokens, or None.")
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

    def pad(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """Pads rows on the right to a common length."""
        columns = {
            "input_ids": ([row.input_ids for row in rows], self.pad_token_id),
            "attention_mask": ([np.ones_like(row.input_ids) for row in rows], 0),
            "labels": ([row.labels for row in rows], IGNORE_INDEX),
        }
        return {name: pad_right(*column, self.pad_to_multiple_of) for name, column in columns.items()}

    def nothing(self) -> EncodedRow:
        """Returns a row of padding for a batch without readable rows, so that all ranks still run the model.

        The padding is attended to, because attention over nothing gives NaN.
        """
        ids = np.full(EMPTY_LENGTH, self.pad_token_id, dtype=np.int64)
        return EncodedRow(ids, np.full_like(ids, IGNORE_INDEX), [], np.zeros_like(ids, dtype=bool))

    def image_lengths(self, row: Mapping[str, Any]) -> list[int]:
        """Returns the number of tokens of each image of a row."""
        sizes = [(image.height, image.width) for image in row["images"]]
        return [tokens for _, tokens in count_tiles_and_tokens(self.processor, sizes, self.image_aspect_ratio)]

    def image_inputs(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """Cuts a batch's images into tiles."""
        if not images:
            return {}
        options = {"image_aspect_ratio": self.image_aspect_ratio, "return_tensors": "pt"}
        return dict(self.processor.image_processor(images, **options))


class RowCollator(BatchMaker):
    """Reads, encodes, truncates and pads rows; `takes_documents` says of which kind.

    Rows measured by `add_lengths` hold their tokens, which are used if tokenizer, template and texts are unchanged.
    """

    takes_documents = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Makes a batch of rows.

        Args:
            rows: Training rows; those with an unreadable image are dropped.

        Returns:
            `input_ids`, `attention_mask` and `labels` of the B rows left, (B, L); with images `pixel_values`,
            `image_sizes` and `image_num_tiles`; `row_ids` and `unreadable`. See the module for the shapes.
        """
        readable, unreadable = read_images(rows)
        encoded = [
            show_images(self.processor, text, self.image_lengths(row)).cut(self.max_length)
            for row, text in zip(readable, self.encode(readable), strict=True)
        ]
        kept = zip(readable, encoded, strict=True)
        images = [image for row, cut in kept for image in row["images"][: len(cut.image_lengths)]]
        return {
            **self.pad(encoded or [self.nothing()]),
            **self.image_inputs(images),
            "row_ids": [row_name(row) for row in readable],
            "unreadable": unreadable,
        }

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedText]:
        """Returns the tokens of rows: those stored in the rows if all have them, else new ones."""
        if all(self.brings_tokens(row) for row in rows):
            return [EncodedText(row["text_ids"], row["text_targets"]) for row in rows]
        return encode_texts(self.processor, [self.render(row) for row in rows])

    def render(self, row: Mapping[str, Any]) -> RenderedText:
        """Renders a row of the collator's kind."""
        if self.takes_documents:
            return RenderedText(render_content(self.processor, row), None)
        return render_row(self.processor, row)

    def brings_tokens(self, row: Mapping[str, Any]) -> bool:
        """Tells whether a row holds the tokens that this collator would make of it."""
        measured = row.get("text_ids") is not None and bool(row.get("content")) == self.takes_documents
        return measured and row["text_key"] == text_key(row, self._texts)

    @cached_property
    def _texts(self) -> str:
        return describe_texts(self.processor)


class SupervisedCollator(RowCollator):
    """Makes batches of conversations; the targets are the assistant's answers, each with its `<|end|>`.

    A row holds `messages`, or `prompt` and `completion`, where only the completion's answers are targets. The ids are
    those of `processor.apply_chat_template(messages, tokenize=True)`; control tokens that a text spells out stay text.

    Args:
        processor: An `XGenMMProcessor` whose chat template marks answers with `{% generation %}`.
        max_length: Maximum number of tokens of a row, including its images; None for no limit. The end of the row is
            cut; an image that does not fit is dropped with everything after it.
        pad_to_multiple_of: Pads a batch to a length L that is a multiple of this number.
        image_aspect_ratio: `"anyres"`, `"none"` or `"pad"`; default: the image processor's.

    Raises:
        ValueError: If an option is out of range, or the tokenizer has no padding token.

    Example:
        ```python
        >>> from xgenmm_hf import TINY_MODEL, SupervisedCollator, XGenMMProcessor
        >>> processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
        >>> messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
        >>> batch = SupervisedCollator(processor)([{"messages": messages}])
        >>> processor.decode(batch["labels"][batch["labels"] != -100])
        'Hi <|end|>'
        ```
    """


class PretrainingCollator(RowCollator):
    """Makes batches of captions and interleaved documents; every text token is a target.

    A row holds `content`, parts of type `text`, `image` and `end_of_chunk` in reading order. Padding, `<image>`,
    `<image placeholder>` and `<|endofchunk|>` are not targets.
    Source: BLIP-3's pre-training, whose stage 1 shows each image as one tile.

    Args:
        processor: An `XGenMMProcessor`.
        max_length: As for `SupervisedCollator`.
        pad_to_multiple_of: As for `SupervisedCollator`.
        image_aspect_ratio: `"none"` for stage 1 (the default), `"anyres"` for stage 2.

    Example:
        ```python
        >>> from xgenmm_hf import TINY_BASE_MODEL, PretrainingCollator, XGenMMProcessor
        >>> processor = XGenMMProcessor.from_pretrained(TINY_BASE_MODEL)
        >>> content = [{"type": "text", "text": "A red circle."}, {"type": "end_of_chunk"}]
        >>> batch = PretrainingCollator(processor)([{"content": content}])
        >>> processor.decode(batch["labels"][batch["labels"] != -100]).strip()
        'A red circle.'
        ```
    """

    takes_documents = True

    def __init__(
        self,
        processor: XGenMMProcessor,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        image_aspect_ratio: str | None = "none",
    ):
        super().__init__(processor, max_length, pad_to_multiple_of, image_aspect_ratio)


class PreferenceCollator(BatchMaker):
    """Makes batches of preference pairs for TRL's `DPOTrainer`; the two answers of a pair share its images.

    A row holds `prompt`, `chosen` and `rejected` messages and `images` (references or PIL images). TRL's plain form,
    with strings as contents, shows its images before the first text of the user. Control tokens that a text spells
    out stay text. A row with an unreadable image, or with a prompt that leaves no room for an answer, becomes a pair
    without images and targets and is listed in `unreadable`: the number of pairs equals the number of rows, as
    `gather` over ranks requires.

    Args:
        processor: An `XGenMMProcessor`.
        max_length: Maximum number of tokens of a sequence, including its images; the end of the answer is cut.
        pad_to_multiple_of: As for `SupervisedCollator`.
        image_aspect_ratio: As for `SupervisedCollator`.

    Raises:
        ValueError: As for `SupervisedCollator`.

    Example:
        ```python
        >>> from xgenmm_hf import TINY_MODEL, PreferenceCollator, XGenMMProcessor
        >>> processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
        >>> row = {
        ...     "prompt": [{"role": "user", "content": "Hello"}],
        ...     "chosen": [{"role": "assistant", "content": "Hi"}],
        ...     "rejected": [{"role": "assistant", "content": "Sorry"}],
        ...     "images": [],
        ... }
        >>> batch = PreferenceCollator(processor)([row])
        >>> batch["input_ids"].shape[0]  # the chosen answer, then the rejected one
        2
        ```
    """

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Makes a batch of pairs.

        Args:
            rows: B preference rows.

        Returns:
            `input_ids`, `attention_mask` and `completion_mask`, (2B, L); with images `pixel_values`, `image_sizes`,
            `image_num_tiles` and `image_repeats`; `row_ids` and `unreadable`. See the module for the shapes.
        """
        pairs: list[Sequence[EncodedRow]] = []
        kept: list[dict[str, Any]] = []
        dropped: list[str] = []
        for row in rows:
            one = [] if row.get("image") is None else [row["image"]]  # TRL takes either column
            readable, unreadable = read_images([{**row, "images": list(row.get("images") or one)}])
            pair = self.encode(readable[0]) if readable else []
            length = max((int((side.labels != IGNORE_INDEX).argmax()) for side in pair), default=0)
            if self.max_length is not None and length >= self.max_length:
                reason = f"its prompt takes {length} tokens and max_length is {self.max_length}; raise max_length."
                readable, unreadable = [], [left_out(row, reason)]
            kept += readable
            dropped += unreadable
            pairs.append(pair if readable else [self.nothing()] * len(SIDES))
        batch = self.pad([side.cut(self.max_length) for sides in zip(*pairs, strict=True) for side in sides])
        batch["completion_mask"] = (batch.pop("labels") != IGNORE_INDEX).long()
        images = [image for row in kept for image in row["images"]]
        return {
            **batch,
            **self.image_inputs(images),
            **({"image_repeats": len(SIDES)} if images else {}),
            "row_ids": [row_name(row) for row in kept],
            "unreadable": dropped,
        }

    def encode(self, row: Mapping[str, Any]) -> list[EncodedRow]:
        """Encodes a row with PIL images; returns its chosen and its rejected sequence, neither truncated."""
        prompt, *answers = render_pair(self.processor, row)
        texts = [prompt, *(prompt + answer for answer in answers)]
        before, *sides = self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        encoded = []
        for ids in sides:
            start = len(os.path.commonprefix([before, ids]))
            text = EncodedText(ids, [index >= start for index in range(len(ids))])
            encoded.append(show_images(self.processor, text, self.image_lengths(row)))
        return encoded


def render_pair(processor: XGenMMProcessor, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Renders a preference row as TRL does; control tokens that its texts spell out are escaped."""
    from trl.data_utils import apply_chat_template, prepare_multimodal_messages

    for name in ("prompt", *SIDES):
        messages = row.get(name)
        if not isinstance(messages, list) or not messages or not isinstance(messages[0], Mapping):
            raise ValueError(
                f"Row {row_name(row)}: `{name}` is {messages!r:.60}; a preference row holds lists of messages, "
                '{"role", "content"}, in prompt, chosen and rejected.'
            )
    try:
        # the text does not depend on the pixels: a marker stands for each image
        prompt = prepare_multimodal_messages(row["prompt"], images=[IMAGE_TOKEN] * len(row["images"]))
        answers = {name: prepare_multimodal_messages(row[name]) for name in SIDES}
    except ValueError as error:
        raise ValueError(f"Row {row_name(row)} cannot be read: {error}") from error
    texts = apply_chat_template({"prompt": prompt, **answers}, processor)
    return texts["prompt"], texts["chosen"], texts["rejected"]
