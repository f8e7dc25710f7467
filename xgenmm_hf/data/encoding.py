"""Training rows -> token ids with their targets, exact at the token level.

A conversation is rendered with the processor's chat template, whose `{% generation %}` blocks mark what the assistant
says; the rendered text is tokenised whole, as the processor does it, and the marked characters become targets through
the tokens' offsets. Only then does every `<image>` become its image's tokens, which are never targets.

Shapes: a row has L tokens; spans are (start, end) pairs, of characters in a text or of tokens in a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xgenmm_hf.modeling.chat_xgenmm import (
    END_OF_CHUNK_TOKEN,
    IMAGE_PLACEHOLDER_TOKEN,
    IMAGE_TOKEN,
    MULTIMODAL_TOKENS,
    content_as_items,
    escape_messages,
)
from xgenmm_hf.modeling.tiling_xgenmm import count_image_tokens


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


IGNORE_INDEX = -100
# How a part of a pre-training row that is no text is written.
WRITTEN_PARTS = {"image": IMAGE_TOKEN, "end_of_chunk": END_OF_CHUNK_TOKEN}


class RenderedChat(NamedTuple):
    """A conversation as the tokenizer reads it, each image one `<image>`; `spans` of characters are the answers."""

    text: str
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class EncodedRow:
    """A row's tokens and where they are targets (`IGNORE_INDEX` elsewhere) and images' tokens, each of shape (L,).

    `image_lengths` are the tokens of each image, in order.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    image_lengths: list[int]
    is_image: np.ndarray

    @cached_property
    def image_spans(self) -> list[tuple[int, int]]:
        """Where each image's tokens stand; images that stand side by side have spans of their own."""
        ends = np.cumsum(self.image_lengths, dtype=np.int64)
        places = np.flatnonzero(self.is_image)
        return [
            (int(places[end - length]), int(places[end - 1]) + 1)
            for length, end in zip(self.image_lengths, ends, strict=True)
        ]

    def cut(self, max_length: int | None) -> "EncodedRow":
        """Cuts the row to a length without cutting an image.

        The end of the text goes first. Where the cut would fall inside an image, it is made before that image:
        it, all later images and everything after it are left out.
        """
        if max_length is None or len(self.input_ids) <= max_length:
            return self
        kept = [span for span in self.image_spans if span[1] <= max_length]
        end = max_length
        if len(kept) < len(self.image_spans):
            end = min(max_length, self.image_spans[len(kept)][0])
        return EncodedRow(
            self.input_ids[:end], self.labels[:end], self.image_lengths[: len(kept)], self.is_image[:end]
        )


def row_name(row: Mapping[str, Any]) -> str:
    """Names a row in messages: `source/id`."""
    return f"{row.get('source') or 'rows'}/{row.get('id', '?')}"


def count_tiles_and_tokens(
    processor: "XGenMMProcessor", image_sizes: Sequence[tuple[int, int]], image_aspect_ratio: str | None = None
) -> list[tuple[int, int]]:
    """Counts what images of given sizes take, without looking at a pixel."""
    options = {"image_aspect_ratio": image_aspect_ratio}
    tiles = [processor.image_processor.get_number_of_image_patches(*size, options) for size in image_sizes]
    sampling = (processor.num_latents, processor.anyres_patch_sampling)
    return [(count, count_image_tokens(count, *sampling)) for count in tiles]


def render_chat(processor: "XGenMMProcessor", messages: Sequence[Mapping[str, Any]]) -> RenderedChat:
    """Renders a conversation with the processor's chat template and finds what the assistant says in it.

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
    return RenderedChat(texts[0], [(int(start), int(end)) for start, end in spans[0]])


def render_row(processor: "XGenMMProcessor", row: Mapping[str, Any]) -> RenderedChat:
    """Renders a conversation row: `messages`, or `prompt` and `completion`, where only the completion is a target."""
    check_parts(row)
    if row.get("messages"):
        return render_chat(processor, row["messages"])
    if row.get("completion") is None:
        raise ValueError(
            f"Row {row_name(row)} holds no conversation; give it `messages`, or `prompt` and `completion` messages."
        )
    prompt = list(row.get("prompt") or [])
    chat = render_chat(processor, [*prompt, *row["completion"]])
    num_before = len(render_chat(processor, prompt).spans) if prompt else 0
    return RenderedChat(chat.text, chat.spans[num_before:])


def render_content(processor: "XGenMMProcessor", row: Mapping[str, Any]) -> str:
    """Renders a pre-training row in the base models' form: texts, `<image>` and `<|endofchunk|>` in reading order."""
    check_parts(row)
    if not row.get("content"):
        raise ValueError(f"Row {row_name(row)} holds no `content`; a pre-training row is a list of parts.")
    parts = escape_messages([{"content": list(row["content"])}], processor.tokenizer)[0]["content"]
    return "".join(part["text"] if part["type"] == "text" else WRITTEN_PARTS[part["type"]] for part in parts)


def check_parts(row: Mapping[str, Any]) -> None:
    """Checks that a row's parts are of known types and its images as many as the parts that show them."""
    parts = list(_parts(row))
    known = {"text", "image", *(WRITTEN_PARTS if row.get("content") else ())}
    for part in parts:
        if part.get("type") not in known:
            raise ValueError(
                f"Row {row_name(row)} holds a part of type {part.get('type')!r}; use {', '.join(sorted(known))}."
            )
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"Row {row_name(row)} holds a text part without a text; give it a string.")
    shown, given = sum(part["type"] == "image" for part in parts), len(row.get("images") or ())
    if shown != given:
        raise ValueError(
            f"Row {row_name(row)} shows {shown} images in its parts and brings {given}; "
            "write one image part for each image."
        )


def _parts(row: Mapping[str, Any]) -> Any:
    """Yields the parts of all contents of a row; a content that is a string is one text part."""
    yield from row.get("content") or ()
    for name in ("messages", "prompt", "completion"):
        for message in row.get(name) or ():
            content = message["content"]
            yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def encode_chat(processor: "XGenMMProcessor", chat: RenderedChat, image_lengths: Sequence[int]) -> EncodedRow:
    """Encodes a rendered conversation; the targets are the tokens of its spans."""
    encoding = processor.tokenizer(chat.text, return_offsets_mapping=True)
    offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    is_target = np.zeros(len(offsets), dtype=bool)
    for start, end in chat.spans:
        # A token without width (the space before the whole text) belongs to no span.
        is_target |= (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return _expand(processor, encoding["input_ids"], is_target, image_lengths)


def encode_content(processor: "XGenMMProcessor", text: str, image_lengths: Sequence[int]) -> EncodedRow:
    """Encodes a pre-training text; every token but those of images and `<|endofchunk|>` is a target.

    Source: BLIP-3's pre-training stage 1.
    """
    input_ids = processor.tokenizer(text)["input_ids"]
    never = [processor.tokenizer.convert_tokens_to_ids(token) for token in MULTIMODAL_TOKENS]
    never.append(processor.tokenizer.pad_token_id)
    return _expand(processor, input_ids, ~np.isin(input_ids, [i for i in never if i is not None]), image_lengths)


def _expand(
    processor: "XGenMMProcessor", input_ids: Sequence[int], is_target: np.ndarray, image_lengths: Sequence[int]
) -> EncodedRow:
    """Puts each image's tokens where its `<image>` stands."""
    ids = np.array(input_ids, dtype=np.int64)
    is_image = ids == processor.image_token_id
    if is_image.sum() != len(image_lengths):
        raise ValueError(
            f"The rendered row holds {is_image.sum()} {IMAGE_TOKEN} for {len(image_lengths)} images; the chat "
            f"template must write one {IMAGE_TOKEN} for each image part (and no {IMAGE_PLACEHOLDER_TOKEN})."
        )
    counts = np.ones(len(ids), dtype=np.int64)
    counts[is_image] = image_lengths
    labels = np.where(is_target & ~is_image, ids, IGNORE_INDEX)
    return EncodedRow(ids.repeat(counts), labels.repeat(counts), list(image_lengths), is_image.repeat(counts))
