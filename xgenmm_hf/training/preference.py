"""Preference rows -> batches for DPO in which an image stands once, though two answers are read after it.

Shapes: B pairs give 2B sequences of L tokens, all chosen ones first, then all rejected ones. The num_images images
of the B prompts, in num_tiles tiles, are not repeated.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from xgenmm_hf.data.encoding import row_name
from xgenmm_hf.modeling.chat_xgenmm import IMAGE_TOKEN
from xgenmm_hf.training.batches import EMPTY_LENGTH, BatchMaker, Unreadable, pad_right, read_images


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


REFERENCE_LOG_PROBS = ("ref_chosen_logps", "ref_rejected_logps")
SIDES = ("chosen", "rejected")


class Tokens(NamedTuple):
    """The ids of a prompt with one of its answers, and where the answer begins."""

    input_ids: list[int]
    start: int


class PreferenceCollator(BatchMaker):
    """Batches of preference pairs for TRL's `DPOTrainer`, every image once.

    A row holds `prompt`, `chosen` and `rejected` messages and `images` (references or PIL images). TRL's plain form,
    with strings as contents, shows its images before the first text of the user. Control tokens that a text spells
    out stay text. A row with an unreadable image, or with a prompt that leaves no room for an answer, becomes a pair
    without images and targets and is listed in `unreadable`: the number of pairs stays that of the rows, which
    `gather` over ranks and precomputed reference log-probabilities count on.

    Args:
        processor: An `XGenMMProcessor`.
        max_length: Tokens of a sequence that are kept, those of its images too; the end of the answer goes.
        pad_to_multiple_of: Length of a batch in multiples of this number.
        image_aspect_ratio: `"anyres"`, `"none"` or `"pad"`; default: the image processor's.

    Raises:
        ValueError: If an option is out of range, or the tokenizer has no padding token.

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
        """Makes a batch."""
        pairs: list[tuple[Tokens, Tokens]] = []
        kept: list[dict[str, Any]] = []
        dropped: list[Unreadable] = []
        for row in rows:
            readable, unreadable = read_images([with_image_list(row)])
            pair = self.encode(readable[0]) if readable else (self._nothing(), self._nothing())
            length = max(side.start for side in pair)
            if readable and self.max_length is not None and length >= self.max_length:
                unreadable, pair = [self._without_room(row, length)], (self._nothing(), self._nothing())
            kept += [] if unreadable else readable
            dropped += unreadable
            pairs.append(pair)
        batch: dict[str, Any] = self._pad([side for sides in zip(*pairs, strict=True) for side in sides])
        images = [image for row in kept for image in row["images"]]
        batch.update(self.image_inputs(images))
        if images:
            batch["image_repeats"] = len(SIDES)
        for name in REFERENCE_LOG_PROBS:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return {**batch, "row_ids": [row_name(row) for row in kept], "unreadable": [str(row) for row in dropped]}

    def encode(self, row: Mapping[str, Any]) -> tuple[Tokens, Tokens]:
        """Encodes a row whole.

        Args:
            row: A preference row with PIL images.

        Returns:
            Its chosen and its rejected sequence.

        Raises:
            ValueError: If it is no preference row, or shows more or fewer images than it brings.
        """
        prompt, *answers = render_pair(self.processor, row)
        lengths = self.image_lengths(row)
        read, options = self.processor.tokenizer, {"add_special_tokens": False}
        before = self._expand(read(prompt, **options)["input_ids"], lengths)
        whole = read([prompt + answer for answer in answers], **options)["input_ids"]
        sides = [self._expand(ids, lengths) for ids in whole]
        chosen, rejected = (Tokens(ids, common_length(before, ids)) for ids in sides)
        return chosen, rejected

    def _expand(self, input_ids: list[int], lengths: list[int]) -> list[int]:
        """Puts each image's tokens where its `<image>` stands."""
        image_token_id, remaining = self.processor.image_token_id, iter(lengths)
        return [token for token in input_ids for _ in range(next(remaining) if token == image_token_id else 1)]

    def _nothing(self) -> Tokens:
        """Returns the sequence of a row that had to be left out: padding, without an answer."""
        return Tokens([self.pad_token_id] * EMPTY_LENGTH, EMPTY_LENGTH)

    def _without_room(self, row: Mapping[str, Any], length: int) -> Unreadable:
        """Tells that a row's prompt leaves no room for an answer."""
        reason = f"its prompt takes {length} tokens and max_length is {self.max_length}; raise max_length."
        return Unreadable(row_name(row), reason)

    def _pad(self, sequences: list[Tokens]) -> dict[str, torch.Tensor]:
        """Cuts sequences to `max_length` and pads them at the end, (2B, L)."""
        ids = [np.array(sequence.input_ids[: self.max_length], dtype=np.int64) for sequence in sequences]
        masks = [(np.arange(len(row)) >= one.start).astype(np.int64) for row, one in zip(ids, sequences, strict=True)]
        return {
            "input_ids": pad_right(ids, self.pad_token_id, self.pad_to_multiple_of),
            "attention_mask": pad_right([np.ones_like(row) for row in ids], 0, self.pad_to_multiple_of),
            "completion_mask": pad_right(masks, 0, self.pad_to_multiple_of),
        }


def with_image_list(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row with its images as a list in `images`, also where it has one in TRL's `image`."""
    images = row.get("images") or ([] if row.get("image") is None else [row["image"]])
    return {**row, "images": list(images)}


def render_pair(processor: "XGenMMProcessor", row: Mapping[str, Any]) -> tuple[str, str, str]:
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
        # the images themselves have nothing to do with the text: any marker stands for them
        prompt = prepare_multimodal_messages(row["prompt"], images=[IMAGE_TOKEN] * len(row["images"]))
        answers = {name: prepare_multimodal_messages(row[name]) for name in SIDES}
    except ValueError as error:
        raise ValueError(f"Row {row_name(row)} cannot be read: {error}") from error
    texts = apply_chat_template({"prompt": prompt, **answers}, processor)
    return texts["prompt"], texts["chosen"], texts["rejected"]


def common_length(first: list[int], second: list[int]) -> int:
    """Counts the ids that two sequences begin with together."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
