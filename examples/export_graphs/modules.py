"""What the two graphs compute, as modules whose inputs and outputs are plain tensors.

Shapes: a batch of B prompts, padded on the left, is read L tokens at a time into a cache of `context` slots. Images
come in num_tiles tiles, (num_tiles, 3, S, S) flat, in the order of the prompts, and become N tokens of the text width.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from xgenmm_hf import XGenMMForConditionalGeneration


class VisionGraph(nn.Module):
    """Tower and resampler.

    Args:
        model: The model.
    """

    def __init__(self, model: XGenMMForConditionalGeneration):
        super().__init__()
        self.model = model.model

    def forward(
        self, pixel_values: torch.Tensor, image_sizes: torch.Tensor, image_num_tiles: torch.Tensor
    ) -> torch.Tensor:
        """Computes the tokens of all images, (N, text width).

        Args:
            pixel_values: All tiles of all images, (num_tiles, 3, S, S).
            image_sizes: Image sizes as (height, width), (num_images, 2).
            image_num_tiles: Tiles an image, (num_images,).
        """
        features = self.model.get_vision_features(pixel_values).last_hidden_state
        return self.model.sample_tokens(features, image_sizes, image_num_tiles)


class TensorCache(Cache):
    """A cache over tensors that the caller owns; new keys and values are written into them in place.

    Args:
        keys: One (B, heads, context, head_dim) tensor a layer.
        values: Likewise.
        slots: Where this step's tokens go, (L,).
    """

    def __init__(self, keys: list[torch.Tensor], values: list[torch.Tensor], slots: torch.Tensor):
        super().__init__(layers=[])
        self._keys, self._values, self._slots = keys, values, slots

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes a layer's new keys and values, (B, heads, L, head_dim), and returns all of them."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        return (
            keys.index_copy_(2, self._slots, key_states.to(keys.dtype)),
            values.index_copy_(2, self._slots, value_states.to(values.dtype)),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns 0: positions and mask are given, so nothing may be derived from the length."""
        return 0


class TextGraph(nn.Module):
    """Embedding, language model and head, over a cache of fixed size.

    The mask is computed here, causal, with padding on the left and with the model's sliding window, so that the
    library's mask code, which differs between the lines, is not part of the graph.

    Args:
        model: The model.
    """

    def __init__(self, model: XGenMMForConditionalGeneration):
        super().__init__()
        self.model = model.model
        self.lm_head = model.lm_head
        self.window = model.config.text_config.to_dict().get("sliding_window")

    def forward(
        self,
        input_ids: torch.Tensor,
        image_tokens: torch.Tensor,
        start: torch.Tensor,
        padding: torch.Tensor,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
    ) -> torch.Tensor:
        """Reads L tokens of every prompt and predicts the next one.

        Args:
            input_ids: (B, L): the prompt, or the last token alone.
            image_tokens: What the vision graph gave, (N, text width). Rows beyond the image tokens in `input_ids` are
                not read; after the prompt any (N, text width) tensor will do.
            start: Slots of the cache that are filled, (1,).
            padding: Padding tokens in front of each prompt, (B,).
            keys: The cache: one (B, heads, context, head_dim) tensor a layer, changed in place.
            values: Likewise.

        Returns:
            Logits behind the last token, (B, vocabulary).
        """
        image_tokens = image_tokens.to(self.lm_head.weight.dtype)
        mask = self.model.image_token_mask(input_ids, None).unsqueeze(-1)
        embeds = self.model.get_input_embeddings()(input_ids).masked_scatter(mask, image_tokens)
        slots = start + torch.arange(input_ids.shape[1], device=input_ids.device)
        positions = (slots - padding.unsqueeze(1)).clamp(min=0)
        output = self.model.language_model(
            inputs_embeds=embeds,
            attention_mask=self._visible(slots, padding, keys[0].shape[2]),
            position_ids=positions,
            use_cache=True,
            past_key_values=TensorCache(keys, values, slots),
        )
        return self.lm_head(output.last_hidden_state[:, -1])

    def _visible(self, slots: torch.Tensor, padding: torch.Tensor, context: int) -> torch.Tensor:
        """Returns which of the cache's slots each new token sees, (B, 1, L, context)."""
        slot = torch.arange(context, device=slots.device)
        distance = slots.unsqueeze(1) - slot  # (L, context)
        visible = distance >= 0
        if self.window is not None:
            visible = visible & (distance < self.window)
        visible = visible & (slot >= padding[:, None, None])
        # padding sees itself: a row without anything to see would be NaN, and spread
        return (visible | (distance == 0)).unsqueeze(1)
