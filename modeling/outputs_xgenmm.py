"""What the model's parts return. States are kept only where a call asks for them.

Shapes: a batch of B prompts of L tokens holds num_images images in num_tiles tiles; the resampler samples num_chunks
chunks (tiles, strips or whole images) of num_patches patches each. Its queries are num_latents latents, in the first
release followed by the prompt's text queries.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)


STATES = ("output_hidden_states", "output_attentions")


@dataclass
class XGenMMImageOutput(BaseModelOutputWithPooling):
    """Output of `get_image_features`.

    Args:
        last_hidden_state: The vision tower's, (num_tiles, patches, width): SigLIP's after its final norm, CLIP's with
            the class token first and before the final norm of the patches.
        pooler_output: The tokens of each image, a list of num_images tensors (tokens, text width).
        hidden_states: The tower's states before its first layer and after each layer, before the final norm,
            (num_tiles, patches, width); CLIP's with the class token first.
        attentions: Attention weights of each of the tower's layers, (num_tiles, heads, patches, patches); only with
            `attn_implementation="eager"`.
        resampler_hidden_states: The resampler's queries before its first block and after each block, before the final
            norm, (num_chunks, queries, width).
        resampler_attentions: Attention weights of each block, (num_chunks, heads, queries, num_patches + queries).
            Each row sums to 1.
    """

    resampler_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    resampler_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class XGenMMModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `XGenMMModel`.

    Args:
        image_hidden_states: The images' tokens, (total image tokens, text width).
        vision_hidden_states: `hidden_states` of `XGenMMImageOutput`, with `output_hidden_states`.
        vision_attentions: `attentions` of `XGenMMImageOutput`, with `output_attentions`.
        resampler_hidden_states: As in `XGenMMImageOutput`, with `output_hidden_states`.
        resampler_attentions: As in `XGenMMImageOutput`, with `output_attentions`.
        resampler_cross_attentions: The part of `resampler_attentions` from latents to patches,
            (num_chunks, heads, num_latents, num_patches).
        image_outputs: All of that together, and each image's tokens; with either option.
    """

    image_hidden_states: torch.FloatTensor | None = None
    vision_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    vision_attentions: tuple[torch.FloatTensor, ...] | None = None
    resampler_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    resampler_attentions: tuple[torch.FloatTensor, ...] | None = None
    resampler_cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    image_outputs: XGenMMImageOutput | None = None


@dataclass
class XGenMMCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of `XGenMMForConditionalGeneration`; the images' fields are those of `XGenMMModelOutputWithPast`."""

    image_hidden_states: torch.FloatTensor | None = None
    vision_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    vision_attentions: tuple[torch.FloatTensor, ...] | None = None
    resampler_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    resampler_attentions: tuple[torch.FloatTensor, ...] | None = None
    resampler_cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    image_outputs: XGenMMImageOutput | None = None


IMAGE_FIELDS = (
    "image_hidden_states",
    "vision_hidden_states",
    "vision_attentions",
    "resampler_hidden_states",
    "resampler_attentions",
    "resampler_cross_attentions",
    "image_outputs",
)


def asked_states(options: dict[str, Any]) -> dict[str, bool]:
    """Returns which states a call asks for, as options of the parts."""
    return {name: True for name in STATES if options.get(name)}


def image_output(vision: BaseModelOutput, tokens: list[torch.Tensor], sampled: BaseModelOutput) -> XGenMMImageOutput:
    """Joins what tower and resampler returned.

    Args:
        vision: The tower's output.
        tokens: The tokens of each image.
        sampled: The resampler's output.

    Returns:
        Their states together.
    """
    return XGenMMImageOutput(
        last_hidden_state=vision.last_hidden_state,
        pooler_output=tokens,
        hidden_states=vision.get("hidden_states"),
        attentions=known_weights(vision.get("attentions")),
        resampler_hidden_states=sampled.hidden_states,
        resampler_attentions=sampled.attentions,
    )


def known_weights(weights: tuple | None) -> tuple | None:
    """Returns attention weights, or None where the attention implementation does not have them."""
    return None if not weights or any(layer is None for layer in weights) else weights


def image_fields(outputs: XGenMMImageOutput | None, tokens: torch.Tensor | None, num_latents: int) -> dict[str, Any]:
    """Returns the fields that images have in a model's output.

    Args:
        outputs: The images' states, where the call asked for them.
        tokens: The images' tokens, (total image tokens, text width), or None.
        num_latents: Latents of the resampler.

    Returns:
        The fields by name.
    """
    if outputs is None:
        return {"image_hidden_states": tokens}
    weights, crossed = outputs.get("resampler_attentions"), None
    if weights is not None:
        num_patches = weights[0].shape[-1] - weights[0].shape[-2]
        crossed = tuple(layer[:, :, :num_latents, :num_patches] for layer in weights)
    return {
        "image_hidden_states": tokens,
        "vision_hidden_states": outputs.get("hidden_states"),
        "vision_attentions": outputs.get("attentions"),
        "resampler_hidden_states": outputs.get("resampler_hidden_states"),
        "resampler_attentions": weights,
        "resampler_cross_attentions": crossed,
        "image_outputs": outputs,
    }
