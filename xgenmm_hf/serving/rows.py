"""A key-value cache whose rows come and go, with room to spare, so that a token more is written and nothing is copied.

Shapes: keys and values of the rows in use are (rows, heads, tokens, head dim), aligned at their last token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer


SPARE_TOKENS = 64


class RowsLayer(DynamicLayer):
    """Keys and values of one layer: views of two buffers that have room for further rows and tokens.

    What a view shows besides a row's own tokens is masked by the caller; it is always zeros or earlier values of the
    row itself, so that nothing one row holds can reach another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, ...] = ()
        self._num_rows = self._start = self._end = 0

    def add_rows(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Appends rows, (new rows, heads, tokens, head dim); the shorter side is padded with zeros on its left."""
        new, length = keys.shape[0], keys.shape[-2]
        longest = max(length, self._end - self._start)
        if not self._buffers or self._num_rows + new > self._buffers[0].shape[0] or self._end < longest:
            self._move((keys, values), self._num_rows + new, longest)
        left, first = self._end - longest, self._num_rows
        for buffer, part in zip(self._buffers, (keys, values), strict=True):
            buffer[:first, :, left : self._start] = 0
            buffer[first : first + new, :, left : self._end - length] = 0
            buffer[first : first + new, :, self._end - length : self._end] = part
        self._num_rows, self._start = first + new, left
        self._show()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends tokens to all rows and returns all keys and values, as the library's layers do."""
        parts, new = (key_states, value_states), key_states.shape[-2]
        if self._end + new > self._buffers[0].shape[-2]:
            self._move(parts, self._num_rows, self._end - self._start)
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer[: self._num_rows, :, self._end : self._end + new] = part
        self._end += new
        self._show()
        return self.keys, self.values

    def keep(self, rows: Sequence[int], start: int) -> None:
        """Drops rows, and tokens at the left of all that stay."""
        self._start += start
        for place, row in enumerate(rows):
            if place != row:
                for buffer in self._buffers:
                    buffer[place, :, self._start : self._end] = buffer[row, :, self._start : self._end]
        self._num_rows = len(rows)
        self._show()

    def _move(self, like: Sequence[torch.Tensor], num_rows: int, length: int) -> None:
        """Takes buffers with room for so many rows and tokens and more, and copies what is in use."""
        rows = 1 << (num_rows - 1).bit_length()
        tokens = length + max(SPARE_TOKENS, length // 4)
        held = self._end - self._start
        buffers = tuple(part.new_zeros(rows, part.shape[1], tokens, part.shape[3]) for part in like)
        for new, old in zip(buffers, self._buffers, strict=False):
            new[: self._num_rows, :, length - held : length] = old[: self._num_rows, :, self._start : self._end]
        self._buffers, self._start, self._end = buffers, length - held, length

    def _show(self) -> None:
        self.keys, self.values = (buffer[: self._num_rows, :, self._start : self._end] for buffer in self._buffers)
        self.is_initialized = True
