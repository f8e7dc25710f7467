"""Floating-point operations and bytes of every part by formula; the one place where they are written down.

FLOPs are those of matrix products, two for each multiplication and addition: norms, activations, softmax and biases
are left out, as torch's own counter leaves them out. Attention counts the keys that are needed: a causal query sees
itself and what stands before it. Bytes are the least that must move: every weight read once, inputs read and outputs
written once, the cache read once a step. A real run moves more, so shares of the bandwidth limit err to the low side.

Letters: N patches of a tile, R latents of a chunk, d width of the tower, D width of the decoder, L tokens of a row.
"""

from dataclasses import dataclass
from typing import Any

from transformers import CLIPVisionConfig

from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig


PIXEL_CHANNELS = 3
FLOAT32 = 4


@dataclass(frozen=True)
class Work:
    """What a computation needs.

    Args:
        flops: Floating-point operations of its matrix products.
        bytes: Bytes that must be read or written at least.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, factor: float) -> "Work":
        """Returns the work of doing it `factor` times over."""
        return Work(self.flops * factor, self.bytes * factor)


def count_patches(vision: Any) -> int:
    """Returns N, the tokens that the tower computes a tile; CLIP has a class token besides."""
    patches = (vision.image_size // vision.patch_size) ** 2
    return int(patches + isinstance(vision, CLIPVisionConfig))


def tower_weights(vision: Any) -> int:
    """Counts the matrix weights of the vision tower: patch embedding, and per layer 4 d^2 + 2 d m."""
    width, inner = vision.hidden_size, vision.intermediate_size
    patch = PIXEL_CHANNELS * vision.patch_size**2 * width
    return int(patch + vision.num_hidden_layers * (4 * width**2 + 2 * width * inner))


def tower_work(vision: Any, tiles: int, size: int) -> Work:
    """Counts the vision tower on tiles.

    FLOPs of a tile: 2 N weights for all linear layers and the patch embedding, and per layer 4 N^2 d for attention.

    Args:
        vision: The tower's config.
        tiles: Number of tiles.
        size: Bytes of a number.

    Returns:
        The work of one forward pass.
    """
    patches, weights = count_patches(vision), tower_weights(vision)
    attention = vision.num_hidden_layers * 4 * patches**2 * vision.hidden_size
    moved = PIXEL_CHANNELS * vision.image_size**2 + patches * vision.hidden_size
    return Work(tiles * (2 * patches * weights + attention), size * (weights + tiles * moved))


def resampler_work(config: XGenMMConfig, chunks: int, size: int, patches: int | None = None) -> Work:
    """Counts the resampler on chunks of N features.

    FLOPs of a block and chunk, with inner width h = heads * head_dim and keys K = N + R: q 2 R d h, kv 4 K d h,
    attention 4 R K h, out 2 R h d, feed-forward 4 R d (ff_mult d). Then the projection, 2 R d D.

    Args:
        config: The model's config.
        chunks: Number of chunks (tiles, with any-resolution sampling).
        size: Bytes of a number.
        patches: N, features of a chunk; default: the patches of a tile.

    Returns:
        The work of one forward pass.
    """
    part = config.resampler_config
    count = config.patches_per_side**2 if patches is None else patches
    latents, width, inner = part.num_latents, part.hidden_size, part.num_heads * part.head_dim
    keys, outputs = count + latents, config.text_config.hidden_size
    block = 4 * latents * width * inner + 4 * keys * width * inner + 4 * latents * keys * inner
    block += 4 * latents * part.ff_mult * width**2
    weights = part.depth * (4 * width * inner + 2 * part.ff_mult * width**2) + width * outputs
    flops = chunks * (part.depth * block + 2 * latents * width * outputs)
    return Work(flops, size * (weights + chunks * (count * width + latents * outputs)))


def head_dim(text: Any) -> int:
    """Returns the width of a decoder's attention head."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def layer_weights(text: Any) -> int:
    """Counts the matrix weights of a decoder layer: q, k, v and out projections and a gated feed-forward part."""
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    attention = (2 * heads + 2 * kv_heads) * head_dim(text) * text.hidden_size
    return int(attention + 3 * text.hidden_size * text.intermediate_size)


def cache_bytes(text: Any, rows: int, length: int, size: int) -> int:
    """Counts the bytes of a cache of `length` tokens for `rows` rows."""
    return int(2 * text.num_hidden_layers * rows * length * text.num_key_value_heads * head_dim(text) * size)


def decoder_work(
    text: Any, rows: int, length: int, size: int, *, past: int = 0, kept: int | None = None, causal: bool = True
) -> Work:
    """Counts the language model with its head on `length` new tokens a row behind `past` cached ones.

    FLOPs of a token and layer: 2 weights, and 4 K h for attention over K keys, h = heads * head_dim. The head adds
    2 D V for each position whose logits are kept. Embedding a token moves one row of the table.

    Args:
        text: The decoder's config.
        rows: Rows of the batch.
        length: New tokens a row.
        size: Bytes of a number.
        past: Cached tokens a row.
        kept: Positions a row whose logits are computed; default: all new ones.
        causal: Whether attention counts only keys that may be seen; off counts the full rectangle.

    Returns:
        The work of one forward pass.
    """
    positions = length if kept is None else kept
    keys = past + ((length + 1) / 2 if causal else length)
    attention = 4 * keys * text.num_attention_heads * head_dim(text)
    head = text.hidden_size * text.vocab_size
    flops = rows * length * text.num_hidden_layers * (2 * layer_weights(text) + attention)
    flops += rows * positions * 2 * head
    weights = text.num_hidden_layers * layer_weights(text) + (head if positions else 0)
    cache = cache_bytes(text, rows, past + length, size)
    return Work(flops, size * (weights + rows * (length * text.hidden_size + positions * text.vocab_size)) + cache)


def prompt_work(config: XGenMMConfig, tiles: int, rows: int, length: int, size: int) -> Work:
    """Counts reading prompts: tower and resampler on all tiles, the decoder on all tokens, one row of logits each."""
    images = tower_work(config.vision_config, tiles, size) + resampler_work(config, tiles, size)
    return images + decoder_work(config.text_config, rows, length, size, kept=1)


def sft_work(config: XGenMMConfig, tiles: int, rows: int, length: int, targets: int, size: int) -> Work:
    """Counts a step of fine-tuning with the tower frozen; what trains counts three times, recomputation never.

    Args:
        config: The model's config.
        tiles: Tiles of the batch.
        rows: Rows of the batch.
        length: Tokens a row.
        targets: Positions of the batch that are targets: only their logits are needed.
        size: Bytes of a number.

    Returns:
        The work of forward and backward pass.
    """
    trained = resampler_work(config, tiles, size)
    trained += decoder_work(config.text_config, rows, length, size, kept=0)
    trained += head_work(config.text_config, targets, size)
    return tower_work(config.vision_config, tiles, size) + trained.times(3)


def dpo_work(config: XGenMMConfig, tiles: int, sequences: int, length: int, targets: int, size: int) -> Work:
    """Counts a DPO step with an adapter on the language model; adapter weights themselves are left out.

    Images are encoded once a pair. The decoder runs forward for the reference, forward for the policy, and backward
    for its activations alone: three forward passes.

    Args:
        config: The model's config.
        tiles: Tiles of the batch, each image once.
        sequences: Chosen and rejected sequences together.
        length: Tokens a sequence.
        targets: Answer tokens of all sequences.
        size: Bytes of a number.

    Returns:
        The work of the step.
    """
    images = tower_work(config.vision_config, tiles, size) + resampler_work(config, tiles, size)
    text = decoder_work(config.text_config, sequences, length, size, kept=0)
    return images + (text + head_work(config.text_config, targets, size)).times(3)


def head_work(text: Any, positions: int, size: int) -> Work:
    """Counts the head on single positions."""
    head = text.hidden_size * text.vocab_size
    return Work(2 * positions * head, size * (head + positions * (text.hidden_size + text.vocab_size)))


def image_work(sources: list[tuple[int, int]], tiles: int, side: int) -> Work:
    """Counts image processing: every source pixel read twice (overview and grid), every tile value written once.

    Args:
        sources: Sizes of the images as (height, width).
        tiles: Tiles that they become.
        side: Side of a tile in pixels.

    Returns:
        The bytes; resizing itself is counted as no work, so the baseline to beat is resizing alone.
    """
    read = sum(2 * PIXEL_CHANNELS * height * width for height, width in sources)
    return Work(0.0, read + tiles * PIXEL_CHANNELS * side**2 * FLOAT32)
