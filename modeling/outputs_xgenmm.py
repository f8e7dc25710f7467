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

    @property
    def num_latents(self) -> int:
        """Number of queries that become tokens of a chunk; in the first release the text queries follow them."""
        return sum(len(tokens) for tokens in self.pooler_output) // self.resampler_attentions[0].shape[0]


class ImageStatesMixin:
    """Names the images' states in a model's output; each is None unless the call asked for it."""

    image_outputs: XGenMMImageOutput | None

    def _image_state(self, name: str) -> Any:
        return None if self.image_outputs is None else self.image_outputs.get(name)

    @property
    def vision_hidden_states(self) -> tuple[torch.FloatTensor, ...] | None:
        """The vision tower's states: `hidden_states` of `XGenMMImageOutput`."""
        return self._image_state("hidden_states")

    @property
    def vision_attentions(self) -> tuple[torch.FloatTensor, ...] | None:
        """The vision tower's attention weights: `attentions` of `XGenMMImageOutput`."""
        return self._image_state("attentions")

    @property
    def resampler_hidden_states(self) -> tuple[torch.FloatTensor, ...] | None:
        """The resampler's queries; see `XGenMMImageOutput`."""
        return self._image_state("resampler_hidden_states")

    @property
    def resampler_attentions(self) -> tuple[torch.FloatTensor, ...] | None:
        """The resampler's attention weights; see `XGenMMImageOutput`."""
        return self._image_state("resampler_attentions")

    @property
    def resampler_cross_attentions(self) -> tuple[torch.FloatTensor, ...] | None:
        """The weights from latents to patches, (num_chunks, heads, num_latents, num_patches) per block."""
        if self.resampler_attentions is None:
            return None
        num_latents = self.image_outputs.num_latents
        num_patches = self.resampler_attentions[0].shape[-1] - self.resampler_attentions[0].shape[-2]
        return tuple(weights[:, :, :num_latents, :num_patches] for weights in self.resampler_attentions)


@dataclass
class XGenMMModelOutputWithPast(ImageStatesMixin, BaseModelOutputWithPast):
    """Output of `XGenMMModel`.

    Args:
        image_hidden_states: The images' tokens, (total image tokens, text width).
        image_outputs: The images' states, with `output_hidden_states` or `output_attentions`.
    """

    image_hidden_states: torch.FloatTensor | None = None
    image_outputs: XGenMMImageOutput | None = None


@dataclass
class XGenMMCausalLMOutputWithPast(ImageStatesMixin, CausalLMOutputWithPast):
    """Output of `XGenMMForConditionalGeneration`; the images' fields are those of `XGenMMModelOutputWithPast`."""

    image_hidden_states: torch.FloatTensor | None = None
    image_outputs: XGenMMImageOutput | None = None


def asked_states(options: dict[str, Any], config: Any) -> dict[str, bool]:
    """Returns which states a call (else the config) requests, as options of the parts."""
    stated = {name: options.get(name) for name in STATES}
    return {name: True for name, asked in stated.items() if asked or (asked is None and getattr(config, name, False))}


def image_output(vision: BaseModelOutput, tokens: list[torch.Tensor], sampled: BaseModelOutput) -> XGenMMImageOutput:
    """Joins what tower and resampler returned; not every attention implementation has weights."""
    weights = vision.get("attentions") or (None,)
    return XGenMMImageOutput(
        last_hidden_state=vision.last_hidden_state,
        pooler_output=tokens,
        hidden_states=vision.get("hidden_states"),
        attentions=None if any(layer is None for layer in weights) else weights,
        resampler_hidden_states=sampled.hidden_states,
        resampler_attentions=sampled.attentions,
    )
