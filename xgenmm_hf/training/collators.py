"""Collators: training rows -> batches, for fine-tuning on conversations and for pre-training on documents.

Both read images when a batch is made and not earlier; see `batches` for what a batch holds, and for the rows whose
images cannot be read.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from xgenmm_hf.data.encoding import (
    EncodedText,
    RenderedText,
    encode_texts,
    render_content,
    render_row,
    row_name,
    show_images,
)
from xgenmm_hf.data.lengths import describe_texts, text_key
from xgenmm_hf.training.batches import BatchMaker, empty_batch, pad_rows, read_images


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


class RowCollator(BatchMaker):
    """Reads, encodes, cuts and pads rows; a subclass says of which kind.

    Rows that `add_lengths` measured with the same tokenizer and chat template bring their tokens with them, unless
    their texts have changed since.

    Args:
        processor: An `XGenMMProcessor`.
        max_length: Tokens of a row that are kept, those of its images too; None keeps all. The end of the text goes
            first; an image that does not fit goes as a whole, with everything after it.
        pad_to_multiple_of: Length of a batch in multiples of this number.
        image_aspect_ratio: `"anyres"`, `"none"` or `"pad"`; default: the image processor's.

    Raises:
        ValueError: If an option is out of range, or the tokenizer has no padding token.
    """

    takes_documents = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Makes a batch."""
        readable, unreadable = read_images(rows)
        notes = {"row_ids": [row_name(row) for row in readable], "unreadable": [str(row) for row in unreadable]}
        if not readable:
            return {**empty_batch(self.pad_token_id, self.pad_to_multiple_of), **notes}
        texts = zip(readable, self.encode(readable), strict=True)
        encoded = [
            show_images(self.processor, text, self.image_lengths(row)).cut(self.max_length) for row, text in texts
        ]
        kept = zip(readable, encoded, strict=True)
        images = [image for row, cut in kept for image in row["images"][: len(cut.image_lengths)]]
        ids, labels = [row.input_ids for row in encoded], [row.labels for row in encoded]
        padded = pad_rows(ids, labels, self.pad_token_id, self.pad_to_multiple_of)
        return {**padded, **self.image_inputs(images), **notes}

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedText]:
        """Returns the tokens of rows: those that they bring, else new ones."""
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
    """Batches of conversations; the targets are what the assistant says, each answer with its `<|end|>`, and no more.

    A row holds `messages`, or `prompt` and `completion`, where only the completion's answers are targets. The ids are
    those of `processor.apply_chat_template(messages, tokenize=True)`; control tokens that a text spells out stay text.

    Args:
        processor: An `XGenMMProcessor` whose chat template marks answers with `{% generation %}`.
        max_length: As for `RowCollator`.
        pad_to_multiple_of: As for `RowCollator`.
        image_aspect_ratio: As for `RowCollator`.

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
    """Batches of captions and interleaved documents; every text token is a target.

    A row holds `content`, parts of type `text`, `image` and `end_of_chunk` in reading order. Padding, `<image>`,
    `<image placeholder>` and `<|endofchunk|>` are no targets.
    Source: BLIP-3's pre-training, whose stage 1 shows each image as one tile.

    Args:
        processor: An `XGenMMProcessor`.
        max_length: As for `RowCollator`.
        pad_to_multiple_of: As for `RowCollator`.
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
        processor: "XGenMMProcessor",
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        image_aspect_ratio: str | None = "none",
    ):
        super().__init__(processor, max_length, pad_to_multiple_of, image_aspect_ratio)
