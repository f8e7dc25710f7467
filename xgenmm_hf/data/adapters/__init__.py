"""Public data formats -> training rows, one module a format.

`load_rows` reads local files into a `datasets.Dataset` or, streaming, an `IterableDataset`; `registry` has the
formats.
"""

from typing import Any


__all__ = ["load_rows"]


def __getattr__(name: str) -> Any:
    """Loads `load_rows` on first use, as it needs heavier modules."""
    if name != "load_rows":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xgenmm_hf.data.adapters.loading import load_rows

    return load_rows
