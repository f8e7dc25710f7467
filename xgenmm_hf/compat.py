"""The one place of the package for differences between the library versions that it supports.

What the model's own files need is in `xgenmm_hf.modeling.compat_xgenmm`, as they travel without the package.
"""

import inspect
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import IterableDataset


def shuffle_stream(rows: "IterableDataset", seed: int, buffer_size: int) -> "IterableDataset":
    """Shuffles a stream and the order of its shards, and keeps the shards apart.

    datasets 5.0 fills the buffer from several shards and thereby makes them one, which ranks can no longer share;
    releases before it know no such option.

    Args:
        rows: The stream.
        seed: Seed of the order; every rank must use the same.
        buffer_size: Rows that are shuffled together.

    Returns:
        A stream with as many shards.
    """
    apart = {"max_buffer_input_shards": 1}
    known = inspect.signature(rows.shuffle).parameters
    return rows.shuffle(seed=seed, buffer_size=buffer_size, **(apart if apart.keys() <= known.keys() else {}))
