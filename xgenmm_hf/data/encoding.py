"""Training rows -> token ids with their targets, exact at the token level.

A conversation is rendered with the processor's chat template, whose `{% generation %}` blocks mark what the assistant
says; the text is tokenised whole, and the marked characters, spans of (start, end), become targets through the tokens'
offsets. Only then does every `<image>` become its image's tokens, which are never targets. A row has L tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from xgenmm_hf.data.rows import DOCUMENT_PARTS, InvalidRow, count_images
from xgenmm_hf.modeling.chat_xgenmm import (
    END_OF_CHUNK_TOKEN,
    IMAGE_PLACEHOLDER_TOKEN,
    IMAGE_TOKEN,
    MULTIMODAL_TOKENS,
    content_as_items,
    escape_messages,
)
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor
from xgenmm_hf.modeling.targets_xgenmm import IGNORE_INDEX
from xgenmm_hf.modeling.tiling_xgenmm import count_image_tokens


# How the parts of a pre-training row other than text are written.
WRITTEN_PARTS = {"image": IMAGE_TOKEN, "end_of_chunk": END_OF_CHUNK_TOKEN}
TURNS = ("messages", "prompt", "completion", "chosen", "rejected")


class RenderedText(NamedTuple):
    """A row as the tokenizer reads it, each image one `<image>`; `spans` of characters are its targets.

    If `spans` is None, every token is a target except those of images, `<|endofchunk|>` and padding.
    """

    text: str
    spans: list[tuple[int, int]] | None


class EncodedText(NamedTuple):
    """The tokens of a rendered text, with one `<image>` per image, and which are targets, each of length L."""

    input_ids: Sequence[int]
    is_target: Sequence[bool]


@dataclass(frozen=True)
class EncodedRow:
    """A row's tokens, labels (`IGNORE_INDEX` where a token is not a target) and mask of image tokens, each (L,).

    `image_lengths` holds the number of tokens of each image, in order.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    image_lengths: list[int]
    is_image: np.ndarray

    def cut(self, max_length: int | None) -> "EncodedRow":
        """Truncates the row to `max_length` tokens; a cut that would fall inside an image is made before it."""
        if max_length is None or len(self.input_ids) <= max_length:
            return self
        lengths = np.array(self.image_lengths, dtype=np.int64)
        places, ends = np.flatnonzero(self.is_image), np.cumsum(lengths)
        kept = int((places[ends - 1] < max_length).sum())
        end = min([max_length, *places[(ends - lengths)[kept:]]])
        return EncodedRow(self.input_ids[:end], self.labels[:end], self.image_lengths[:kept], self.is_image[:end])


def row_name(row: Mapping[str, Any]) -> str:
    """Returns the name of a row in messages, `source/id`."""
    return f"{row.get('source') or 'rows'}/{row.get('id', '?')}"


def count_tiles_and_tokens(
    processor: XGenMMProcessor, image_sizes: Sequence[tuple[int, int]], image_aspect_ratio: str | None = None
) -> list[tuple[int, int]]:
    """Returns the numbers of tiles and of tokens of images from their (height, width) alone."""
    options = {"image_aspect_ratio": image_aspect_ratio}
    tiles = [processor.image_processor.get_number_of_image_patches(*size, options) for size in image_sizes]
    sampling = (processor.num_latents, processor.anyres_patch_sampling)
    return [(count, count_image_tokens(count, *sampling)) for count in tiles]


def render_chat(
    processor: XGenMMProcessor, messages: Sequence[Mapping[str, Any]], answers: int | None = None
) -> RenderedText:
    """Renders a conversation with the chat template; its last `answers` answers, by default all, are targets.

    Control tokens that a content spells out are escaped, as `processor.apply_chat_template` does.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = processor.tokenizer
    template = processor.chat_template
    texts, spans = render_jinja_template(
        conversations=[escape_messages(content_as_items(messages), tokenizer)],
        chat_template=template["default"] if isinstance(template, dict) else template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    if not spans[0] and any(message["role"] == "assistant" for message in messages):
        raise ValueError(
            "The chat template marks no assistant turn; put {% generation %} and {% endgeneration %} around the "
            "answer and its end token, or use the template of xgenmm_hf.modeling.chat_xgenmm."
        )
    targets = [(int(start), int(end)) for start, end in spans[0]]
    return RenderedText(texts[0], targets if answers is None else targets[len(targets) - answers :])


def render_texts(processor: XGenMMProcessor, row: Mapping[str, Any]) -> list[RenderedText]:
    """Renders a row of any kind: one text, or two for a preference pair, which end with its answers."""
    if row.get("content"):
        return [RenderedText(render_content(processor, row), None)]
    if not row.get("chosen"):
        return [render_row(processor, row)]
    check_parts(row)
    prompt = list(row.get("prompt") or [])
    return [render_chat(processor, [*prompt, *row[name]], answers=1) for name in ("chosen", "rejected")]


def render_row(processor: XGenMMProcessor, row: Mapping[str, Any]) -> RenderedText:
    """Renders a conversation row: `messages`, or `prompt` and `completion`, where only the completion is a target."""
    check_parts(row)
    if row.get("messages"):
        return render_chat(processor, row["messages"])
    if row.get("completion") is None:
        raise ValueError(
            f"Row {row_name(row)} holds no conversation; give it `messages`, or `prompt` and `completion` messages."
        )
    answers = sum(message["role"] == "assistant" for message in row["completion"])
    return render_chat(processor, [*(row.get("prompt") or []), *row["completion"]], answers)


def render_content(processor: XGenMMProcessor, row: Mapping[str, Any]) -> str:
    """Renders a pre-training row in the base models' form: texts, `<image>` and `<|endofchunk|>` in reading order."""
    check_parts(row)
    if not row.get("content"):
        raise ValueError(f"Row {row_name(row)} holds no `content`; a pre-training row is a list of parts.")
    parts = escape_messages([{"content": list(row["content"])}], processor.tokenizer)[0]["content"]
    return "".join(part["text"] if part["type"] == "text" else WRITTEN_PARTS[part["type"]] for part in parts)


def check_parts(row: Mapping[str, Any]) -> None:
    """Checks that a row's parts have known types, and that the row has one image per image part."""
    try:
        shown = count_images(row["content"], "content", DOCUMENT_PARTS) if row.get("content") else 0
        for name in TURNS:
            contents = [turn["content"] for turn in row.get(name) or ()]
            shown += sum(count_images(it, name) for it in contents if not isinstance(it, str))
    except InvalidRow as error:
        raise ValueError(f"Row {row_name(row)}: {error}.") from None
    given = len(row.get("images") or ())
    if shown != given:
        raise ValueError(
            f"Row {row_name(row)} has {shown} image parts and {given} images; write one image part for each image."
        )


def encode_texts(processor: XGenMMProcessor, texts: Sequence[RenderedText]) -> list[EncodedText]:
    """Encodes rendered texts; a token is a target if a span holds any of its characters."""
    if not texts:
        return []
    tokenizer = processor.tokenizer
    encoding = tokenizer([text for text, _ in texts], return_attention_mask=False, return_offsets_mapping=True)
    never = [*map(tokenizer.convert_tokens_to_ids, MULTIMODAL_TOKENS), tokenizer.pad_token_id]
    never = [token_id for token_id in never if token_id is not None]
    encoded = []
    for (_, spans), ids, offsets in zip(texts, encoding["input_ids"], encoding["offset_mapping"], strict=True):
        if spans is None:
            is_target = ~np.isin(ids, never)
        else:
            starts, ends = np.fromiter(chain.from_iterable(offsets), np.int64).reshape(-1, 2).T
            is_target = np.zeros(len(ids), dtype=bool)
            for start, end in spans:
                # A token without width (the space before the whole text) belongs to no span.
                is_target |= (starts < end) & (ends > start)
        encoded.append(EncodedText(ids, is_target.tolist()))
    return encoded


def show_images(processor: XGenMMProcessor, text: EncodedText, image_lengths: Sequence[int]) -> EncodedRow:
    """Replaces each `<image>` by the tokens of its image."""
    ids = np.array(text.input_ids, dtype=np.int64)
    is_image = ids == processor.image_token_id
    if is_image.sum() != len(image_lengths):
        raise ValueError(
            f"The rendered row holds {is_image.sum()} {IMAGE_TOKEN} for {len(image_lengths)} images; the chat "
            f"template must write one {IMAGE_TOKEN} for each image part (and no {IMAGE_PLACEHOLDER_TOKEN})."
        )
    counts = np.ones(len(ids), dtype=np.int64)
    counts[is_image] = image_lengths
    labels = np.where(np.array(text.is_target, dtype=bool) & ~is_image, ids, IGNORE_INDEX)
    return EncodedRow(ids.repeat(counts), labels.repeat(counts), list(image_lengths), is_image.repeat(counts))
