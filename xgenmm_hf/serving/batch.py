"""Prompts of any lengths decoded together: rows join and leave between two tokens.

Shapes: B rows, the longest holding L tokens; shorter ones are padded on the left. Positions count a row's own tokens,
so that padding changes nothing about an answer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xgenmm_hf.modeling.compat_xgenmm import CACHE_NAME


if TYPE_CHECKING:
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


SPARE_TOKENS = 64
ATTENTION_KINDS = {"full_attention", "sliding_attention"}


class Batch:
    """The key-value cache of the rows being decoded, and the logits of each row's next token.

    A language model with layers without such a cache is refused, because these layers cannot be padded.
    """

    def __init__(self, model: "XGenMMForConditionalGeneration"):
        text = model.config.text_config
        kinds = set(getattr(text, "layer_types", None) or ())
        if not kinds <= ATTENTION_KINDS:
            raise ValueError(
                f"The language model has layers of the kinds {', '.join(sorted(kinds))}; only full and sliding "
                "attention can be served in batches."
            )
        self._model = model
        self._cache: Cache | None = None
        self._mask = torch.empty(0, 0, dtype=torch.long)
        # SDPA accepts one ready-made mask for all layers. The library takes longer to build it than a small model to
        # compute a token.
        self._ready_made = text._attn_implementation == "sdpa" and len(kinds) < len(ATTENTION_KINDS)
        self._window = None if kinds == {"full_attention"} else getattr(text, "sliding_window", None)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return self._mask.shape[1]

    def add(self, prompts: Sequence[torch.Tensor], image_tokens: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Reads prompts and appends them as rows."""
        longest = max(prompt.shape[1] for prompt in prompts)
        device = self._model.device
        input_ids = torch.cat([_pad_left(prompt, longest) for prompt in prompts]).to(device)
        mask = torch.cat([_pad_left(torch.ones_like(prompt), longest) for prompt in prompts]).to(device)
        images = {"image": BaseModelOutputWithPooling(pooler_output=list(image_tokens))} if image_tokens else None
        # A cache without the config's window never drops a token, so rows of other lengths can be padded to its
        # length. The mask applies the window.
        cache = DynamicCache()
        outputs = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            mm_encoder_outputs=images,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_NAME: cache},
        )
        logits = outputs.logits[:, -1]
        self._join(cache, mask)
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Appends one token to every row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(self._mask.shape[0], 1)], dim=1)
        outputs = self._model(
            input_ids=torch.tensor(tokens, device=self._mask.device)[:, None],
            attention_mask=self._step_mask(),
            position_ids=self._mask.sum(-1, keepdim=True) - 1,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_NAME: self._cache},
        )
        return outputs.logits[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all rows but the given ones, and the padding that none of them needs."""
        if not rows or self._cache is None:
            self._cache, self._mask = None, self._mask.new_empty(0, 0)
        elif len(rows) < len(self._mask):
            chosen = torch.tensor(rows, device=self._mask.device)
            self._mask = self._mask[chosen]
            start = int(self._mask.any(0).long().argmax())
            self._mask = self._mask[:, start:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[chosen, :, start:], layer.values[chosen, :, start:]

    def _join(self, cache: Cache, mask: torch.Tensor) -> None:
        """Appends rows to the batch; without enough memory for them the batch stays unchanged."""
        if self._cache is None:
            layers = [_RoomyLayer(layer.keys, layer.values) for layer in cache.layers]
            self._cache, self._mask = Cache(layers=layers), mask
            return
        rows, longest = len(self._mask), max(self.length, mask.shape[1])
        padding, joined = longest - self.length, []
        try:
            both = torch.cat([_pad_left(self._mask, longest), _pad_left(mask, longest)])
            for layer, new in zip(self._cache.layers, cache.layers, strict=True):
                layer.keys, layer.values = _stack(layer, new, longest)
                joined.append(layer)
                new.keys = new.values = None  # free what was copied, or all layers would be held twice
        except Exception:
            for layer in joined:
                layer.keys, layer.values = layer.keys[:rows, :, padding:], layer.values[:rows, :, padding:]
            raise
        self._mask = both

    def _step_mask(self) -> torch.Tensor:
        """Returns which tokens the last token of each row attends to, (B, 1, 1, L), or the padding mask, (B, L)."""
        if not self._ready_made:
            return self._mask
        seen = self._mask.bool()
        if self._window is not None:
            seen[:, : -self._window] = False
        return seen[:, None, None]


class _RoomyLayer(DynamicLayer):
    """Keys and values as views of larger buffers, so that a new token is written without copying the others."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self._buffers: list[torch.Tensor] = []
        self._shown: torch.Tensor | None = None  # keys from the buffers; any other keys were set by a caller

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Appends tokens to all rows and returns all keys and values, as the library's layers do."""
        held, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self.keys is not self._shown or end > self._buffers[0].shape[-2]:
            room = end - held + max(SPARE_TOKENS, held // 4)
            self._buffers = [pad(part, (0, 0, 0, room)) for part in (self.keys, self.values)]
        for buffer, part in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, held:end] = part
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        self._shown = self.keys
        return self.keys, self.values


def _pad_left(values: torch.Tensor, length: int) -> torch.Tensor:
    """Pads the last dimension with zeros on the left, up to a length."""
    return pad(values, (length - values.shape[-1], 0))


def _stack(layer: Any, new: Any, length: int) -> list[torch.Tensor]:
    """Joins keys and values of two layers, (rows, heads, tokens, head dim), padded to `length` tokens."""
    pairs = ((layer.keys, new.keys), (layer.values, new.values))
    return [torch.cat([pad(part, (0, 0, length - part.shape[-2], 0)) for part in pair]) for pair in pairs]
