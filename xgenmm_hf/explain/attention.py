"""The tiles and patches of an image that an answer attends to.

The heat of a patch p of the image is

    heat(p) = sum over image tokens i of  text(i) * look(i, p)

- text(i): attention that the answer pays to image token i in the language model: the mean over the answer's tokens
  (at the positions that predict them), over heads and over layers, scaled to sum to one over the image tokens.
- look(i, p): attention that the resampler's latent behind token i pays to patch p, the mean over heads. A latent also
  looks at latents, so layers are joined by rollout: with the attention A = [A_patches ; A_latents] of a layer,
  L <- (L + A_patches + A_latents L) / 2 from L = 0, where half stands for the residual path; then L is scaled to sum
  to one over the patches of its chunk.

Attention says where information was read from, not what it was used for; and the vision tower has already mixed the
patches with each other.

Source: attention rollout, Abnar and Zuidema, arXiv 2005.00928.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from xgenmm_hf.explain.addresses import ImageAddresses, image_token_addresses
from xgenmm_hf.inference.asking import generate_rows, room_for_answer
from xgenmm_hf.inference.batches import before_control
from xgenmm_hf.inference.prompts import build_messages, render_prompt
from xgenmm_hf.modeling.chat_xgenmm import escape_special_tokens
from xgenmm_hf.modeling.compat_xgenmm import CACHE_NAME


if TYPE_CHECKING:
    from PIL import Image

    from xgenmm_hf.inference.loading import Loaded
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


@dataclass(frozen=True)
class Explanation:
    """Where an answer's attention lies."""

    answer: str
    patches: np.ndarray  # heat of patches, (num_tiles, side, side), summing to one
    pixels: np.ndarray  # heat of the image's pixels, (height, width), summing to one
    outside: float  # share of the patches' heat on padding
    image_share: float  # of the answer's attention, before it is scaled to one
    addresses: ImageAddresses

    def as_record(self, top: int = 10) -> dict[str, Any]:
        """Returns what was found as JSON-ready values, with all tiles and the hottest patches.

        Boxes are (left, top, right, bottom) in pixels of the image.
        """
        found, tiles, patches = self.addresses, [], []
        for tile, (row, column) in enumerate(found.tile_cell.tolist()):
            name = "overview" if row < 0 else f"grid row {row}, column {column}"
            share = float(self.patches[tile].sum())
            tiles.append({"tile": tile, "name": name, "box": found.box_of(found.patch_box[tile]), "share": share})
        hottest = np.argsort(-self.patches, axis=None, kind="stable")[:top]
        for place in zip(*(axis.tolist() for axis in np.unravel_index(hottest, self.patches.shape)), strict=True):
            named = dict(zip(("tile", "row", "column"), place, strict=True))
            box, share = found.box_of(found.patch_box[place]), float(self.patches[place])
            patches.append({**named, "box": box, "share": share})
        shares = {"answer": self.answer, "image_share": self.image_share, "outside": self.outside}
        return {**shares, "tiles": tiles, "patches": patches}


@torch.inference_mode()
def explain_answer(
    loaded: "Loaded",
    image: "Image.Image",
    prompt: str,
    *,
    answer: str | None = None,
    system: str | None = None,
    layer: int | None = None,
    text_layer: int | None = None,
    max_new_tokens: int = 128,
) -> Explanation:
    """Asks about an image and finds where the answer's attention lies."""
    model, processor = loaded.model, loaded.processor
    resampler_config, text_config = model.config.resampler_config, model.config.text_config
    check_layer("layer", layer, resampler_config.depth)
    check_layer("text_layer", text_layer, text_config.num_hidden_layers)
    text = render_prompt(processor, build_messages([image], prompt, system))
    inputs = processor(images=[image], text=text, return_tensors="pt").to(model.device, model.dtype)
    room = room_for_answer(model.config, inputs["input_ids"].shape[1])
    if answer is None:
        (new,) = generate_rows(loaded, inputs, max_new_tokens=min(max_new_tokens, room))
        answer_ids = before_control(processor.tokenizer, new)
    else:
        answer_ids = encode_answer(loaded, inputs, image, text, answer)[:room]
    if not answer_ids:
        raise ValueError("The answer is empty, so there is nothing to explain; ask something else or pass an answer.")
    text_attention, layers = read_attention(model, inputs, answer_ids)
    sizes, num_tiles = inputs["image_sizes"], inputs["image_num_tiles"]
    addresses = image_token_addresses(sizes, model.config, inputs["input_ids"], num_tiles)
    read = weigh_tokens(text_attention, addresses.token_position[:, 1], text_layer)
    look = roll_out(layers if layer is None else [layers[layer]], resampler_config.num_latents)
    patches = heat_of_patches(addresses, look, read.view(look.shape[:2])).numpy()
    pixels, outside = heat_of_pixels(patches, addresses)
    decoded = processor.tokenizer.decode(answer_ids).strip()
    return Explanation(decoded, patches, pixels, outside, float(read.sum()), addresses)


def check_layer(name: str, layer: int | None, depth: int) -> None:
    """Checks that a layer exists."""
    if layer is not None and not -depth <= layer < depth:
        raise ValueError(f"{name} is {layer}, but the model has {depth} such layers: give {-depth} to {depth - 1}.")


def encode_answer(loaded: "Loaded", inputs: Any, image: "Image.Image", text: str, answer: str) -> list[int]:
    """Encodes a given answer as it would follow the prompt."""
    escaped = escape_special_tokens(answer.strip(), loaded.processor.tokenizer)
    ids = loaded.processor(images=[image], text=text + escaped, return_tensors="pt")["input_ids"][0].tolist()
    prompt = inputs["input_ids"][0].tolist()
    if ids[: len(prompt)] != prompt:
        raise ValueError(f"The answer {answer!r} shares a token with the end of the prompt; begin it with a letter.")
    return ids[len(prompt) :]


def read_attention(
    model: "XGenMMForConditionalGeneration", inputs: Any, answer_ids: list[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Runs the model over prompt and answer; returns the attention of the language model's and resampler's layers.

    The prompt is cached first, so that the language model's attention is computed for the answer's rows only.
    """
    prompt_ids = inputs["input_ids"]
    ids = torch.cat([prompt_ids, prompt_ids.new_tensor([answer_ids])], dim=1)
    # the last token of the prompt predicts the first of the answer, and nothing follows the answer's last
    read, end = prompt_ids.shape[1] - 1, ids.shape[1] - 1
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes", "image_num_tiles")}
    encoded = model.get_image_features(**images, prompt_ids=prompt_ids, output_attentions=True)
    mask, cached = torch.ones_like(ids), {CACHE_NAME: DynamicCache(), "use_cache": True}
    model.model(ids[:, :read], attention_mask=mask[:, :read], mm_encoder_outputs={"image": encoded}, **cached)
    with eager_attention(model.model.language_model):
        outputs = model.model(ids[:, read:end], attention_mask=mask[:, :end], output_attentions=True, **cached)
    looked = [weights.double().mean(1) for weights in encoded.resampler_attentions or ()]
    return [weights[0].double().mean(0) for weights in outputs.attentions], looked


@contextmanager
def eager_attention(module: Any) -> Iterator[None]:
    """Switches a model to eager attention, the only implementation that returns the weights."""
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)


def weigh_tokens(attention: list[torch.Tensor], places: torch.Tensor, layer: int | None = None) -> torch.Tensor:
    """Computes how much an answer's tokens attend to each image token."""
    layers = torch.stack(attention) if layer is None else attention[layer].unsqueeze(0)
    return layers.mean(dim=(0, 1))[places]


def roll_out(layers: list[torch.Tensor], num_latents: int) -> torch.Tensor:
    """Joins the attention of the resampler's layers, (num_chunks, queries, patches of a chunk + queries) each.

    The result, (num_chunks, num_latents, patches of a chunk), says how much each latent looked at each patch: it sums
    to one over them, or is zero where a chunk has no visible patch.
    """
    queries = layers[0].shape[1]  # the latents, and the first release's text behind them
    looked = torch.zeros_like(layers[0][..., :-queries])
    for weights in layers:
        looked = (looked + weights[..., :-queries] + weights[..., -queries:] @ looked) / 2
    looked = looked[:, :num_latents]
    total = looked.sum(-1, keepdim=True)
    return torch.where(total > 0, looked / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)


def heat_of_patches(addresses: ImageAddresses, attention: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Adds up what an image's tokens looked at: heat of patches, (num_tiles, side, side), summing to one or all zero.

    `attention` is (num_chunks, num_latents, patches of a chunk); `weights`, (num_chunks, num_latents), counts tokens.
    """
    seen = (weights.double().cpu().unsqueeze(-1) * attention.double().cpu()).sum(1) * addresses.chunk_visible
    heat = torch.zeros(addresses.patch_letterbox.numel(), dtype=torch.float64)
    heat.index_add_(0, addresses.chunk_patches.flatten(), seen.flatten())
    return (heat / (heat.sum() or 1)).view(addresses.patch_letterbox.shape)


def heat_of_pixels(heat: np.ndarray, addresses: ImageAddresses) -> tuple[np.ndarray, float]:
    """Spreads the heat of patches over the pixels they show: (height, width), summing to one or all zero.

    Also returns the share of the patches' heat that lies on padding and so outside of the image, in [0, 1].
    """
    height, width = addresses.image_sizes[0].tolist()
    pixels = np.zeros((height, width))
    for values, boxes in zip(heat, addresses.patch_box.numpy(), strict=True):
        rows, columns = boxes[:, 0, 1::2], boxes[0, :, 0::2]
        pixels += coverage(rows, height).T @ values @ coverage(columns, width)
    inside = pixels.sum()
    outside = max(0.0, 1.0 - float(inside / heat.sum())) if heat.sum() > 0 else 0.0
    return (pixels / inside if inside > 0 else pixels), outside


def coverage(edges: np.ndarray, length: int) -> np.ndarray:
    """Computes the share of each cell, (cells, 2), that lies on each pixel of an axis, (cells, length)."""
    pixel = np.arange(length)
    start, end = edges[:, :1], edges[:, 1:]
    return np.clip(np.minimum(end, pixel + 1) - np.maximum(start, pixel), 0, None) / (end - start)
