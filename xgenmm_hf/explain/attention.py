"""Which tiles and patches of an image an answer rests on, by the model's attention.

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

from xgenmm_hf.explain.heat import Cut, box_in_image, cut_of, heat_of_patches, heat_of_pixels
from xgenmm_hf.inference.asking import room_for_answer
from xgenmm_hf.inference.batches import before_control
from xgenmm_hf.inference.prompts import build_messages, render_prompt
from xgenmm_hf.modeling.chat_xgenmm import escape_special_tokens
from xgenmm_hf.modeling.compat_xgenmm import CACHE_NAME


if TYPE_CHECKING:
    from PIL import Image

    from xgenmm_hf.inference.loading import Loaded


@dataclass(frozen=True)
class Explanation:
    """Where an answer's attention lies.

    Attributes:
        answer: The answer.
        patches: Heat of patches, (num_tiles, side, side), summing to one.
        pixels: Heat of the image's pixels, (height, width), summing to one.
        outside: Share of the patches' heat on padding.
        image_share: Share of the answer's attention that goes to image tokens, before it is scaled to one.
        cut: How the image was cut.
    """

    answer: str
    patches: np.ndarray
    pixels: np.ndarray
    outside: float
    image_share: float
    cut: Cut

    def as_record(self, top: int = 10) -> dict[str, Any]:
        """Returns what was found as JSON-ready values.

        Args:
            top: How many of the hottest patches to list.

        Returns:
            `answer`, `image_share`, `outside`, `tiles` (share and box of each) and `patches` (the hottest). Boxes are
            (left, top, right, bottom) in pixels of the image.
        """
        tiles, side = [], self.cut.side
        for tile, heat in enumerate(self.patches):
            name = "overview" if tile == 0 else "grid row {}, column {}".format(*divmod(tile - 1, self.cut.columns))
            box = box_in_image(self.cut, *self.cut.patch_edges(tile))
            tiles.append({"tile": tile, "name": name, "box": box, "share": float(heat.sum())})
        patches = []
        for index in np.argsort(-self.patches, axis=None, kind="stable")[:top].tolist():
            tile, row, column = index // side**2, index // side % side, index % side
            rows, columns = self.cut.patch_edges(tile)
            box = box_in_image(self.cut, rows[row : row + 1], columns[column : column + 1])
            share = float(self.patches[tile, row, column])
            patches.append({"tile": tile, "row": row, "column": column, "box": box, "share": share})
        return {
            "answer": self.answer,
            "image_share": self.image_share,
            "outside": self.outside,
            "tiles": tiles,
            "patches": patches,
        }


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
        answer_ids = own_answer(loaded, inputs, min(max_new_tokens, room))
    else:
        answer_ids = encode_answer(loaded, inputs, image, text, answer)[:room]
    if not answer_ids:
        raise ValueError("The answer is empty, so there is nothing to explain; ask something else or pass an answer.")
    text_attention, layers = read_attention(model, inputs, answer_ids)
    places = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().flatten()
    read = weigh_tokens(text_attention, places, text_layer)
    look = roll_out(layers if layer is None else [layers[layer]], resampler_config.num_latents)
    sizes, num_tiles = inputs["image_sizes"], inputs["image_num_tiles"]
    share = float(read.sum())
    patches = heat_of_patches(model.config, look, read.view(look.shape[:2]), sizes, num_tiles).numpy()
    height, width = sizes[0].tolist()
    cut = cut_of(model.config, height, width, int(num_tiles))
    pixels, outside = heat_of_pixels(patches, cut)
    return Explanation(processor.tokenizer.decode(answer_ids).strip(), patches, pixels, outside, share, cut)


def check_layer(name: str, layer: int | None, depth: int) -> None:
    """Checks that a layer exists."""
    if layer is not None and not -depth <= layer < depth:
        raise ValueError(f"{name} is {layer}, but the model has {depth} such layers: give {-depth} to {depth - 1}.")


def own_answer(loaded: "Loaded", inputs: Any, max_new_tokens: int) -> list[int]:
    """Lets the model answer greedily."""
    output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    return before_control(loaded.processor.tokenizer, output[0, inputs["input_ids"].shape[1] :].tolist())


def encode_answer(loaded: "Loaded", inputs: Any, image: "Image.Image", text: str, answer: str) -> list[int]:
    """Encodes a given answer as it would follow the prompt."""
    escaped = escape_special_tokens(answer.strip(), loaded.processor.tokenizer)
    ids = loaded.processor(images=[image], text=text + escaped, return_tensors="pt")["input_ids"][0].tolist()
    prompt = inputs["input_ids"][0].tolist()
    if ids[: len(prompt)] != prompt:
        raise ValueError(f"The answer {answer!r} cannot be told from the prompt in tokens; begin it with a letter.")
    return ids[len(prompt) :]


def read_attention(model: Any, inputs: Any, answer_ids: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Runs the model over prompt and answer and takes down the attention.

    The prompt is read first, into a cache, so that only the answer's rows of the language model's attention are made.
    """
    resampler, language_model = model.model.resampler, model.model.language_model
    prompt_ids = inputs["input_ids"]
    ids = torch.cat([prompt_ids, prompt_ids.new_tensor([answer_ids])], dim=1)
    # the last token of the prompt predicts the first of the answer, and nothing follows the answer's last
    read, end = prompt_ids.shape[1] - 1, ids.shape[1] - 1
    cache = DynamicCache()
    with eager_attention(resampler), recorded_weights(resampler) as looked:
        images = {name: inputs[name] for name in ("pixel_values", "image_sizes", "image_num_tiles")}
        mask = torch.ones_like(ids[:, :read])
        model.model(ids[:, :read], attention_mask=mask, use_cache=True, **{CACHE_NAME: cache}, **images)
    with eager_attention(language_model):
        outputs = model.model(
            ids[:, read:end],
            attention_mask=torch.ones_like(ids[:, :end]),
            use_cache=True,
            output_attentions=True,
            **{CACHE_NAME: cache},
        )
    return [weights[0].double().mean(0) for weights in outputs.attentions], looked


@contextmanager
def eager_attention(module: Any) -> Iterator[None]:
    """Lets a model compute attention eagerly, the only way that keeps the weights, for the time of a block."""
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)


@contextmanager
def recorded_weights(resampler: Any) -> Iterator[list[torch.Tensor]]:
    """Takes down the attention weights of a resampler's layers for the time of a block.

    Args:
        resampler: The resampler, computing eagerly.

    Yields:
        A list that fills with the mean over heads of each layer, (num_chunks, num_latents, keys).
    """
    weights: list[torch.Tensor] = []
    hooks = [
        layer.attention.register_forward_hook(lambda _, __, output: weights.append(output[1].double().mean(1)))
        for layer in resampler.layers
    ]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


def weigh_tokens(attention: list[torch.Tensor], places: torch.Tensor, layer: int | None = None) -> torch.Tensor:
    """Computes how much an answer's tokens attend to each image token."""
    layers = torch.stack(attention) if layer is None else attention[layer].unsqueeze(0)
    return layers.mean(dim=(0, 1))[places]


def roll_out(layers: list[torch.Tensor], num_latents: int) -> torch.Tensor:
    """Joins the attention of the resampler's layers.

    Args:
        layers: (num_chunks, num_latents, patches of a chunk + num_latents) for each layer that counts.
        num_latents: Latents of a chunk.

    Returns:
        How much each latent looked at each patch, (num_chunks, num_latents, patches of a chunk), summing to one; zero
        where a chunk has no visible patch.
    """
    looked = torch.zeros_like(layers[0][..., :-num_latents])
    for weights in layers:
        patches, latents = weights[..., :-num_latents], weights[..., -num_latents:]
        looked = (looked + patches + latents @ looked) / 2
    total = looked.sum(-1, keepdim=True)
    return torch.where(total > 0, looked / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
