"""Public data formats -> training rows.

`load_rows` reads files or a data set of the Hub into a `datasets.Dataset` or, streaming, an `IterableDataset`;
`ADAPTERS` has the formats by name.
"""

from collections.abc import Iterable
from typing import Any

from xgenmm_hf.data.adapters import conversations, preferences, pretraining
from xgenmm_hf.data.adapters.base import Adapter
from xgenmm_hf.data.fields import Record


__all__ = ["ADAPTERS", "load_rows"]

ADAPTERS = {
    adapter.name: adapter for adapter in (*conversations.ADAPTERS, *pretraining.ADAPTERS, *preferences.ADAPTERS)
}
AUTO = "auto"


def __getattr__(name: str) -> Any:
    """Loads `load_rows` on first use, as it needs heavier modules."""
    if name != "load_rows":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xgenmm_hf.data.loading import load_rows

    return load_rows


def adapter_of(name: str) -> Adapter:
    """Returns the adapter of a format."""
    if name not in ADAPTERS:
        raise ValueError(f"There is no data format {name!r}; there are {', '.join(ADAPTERS)}, or {AUTO}.")
    return ADAPTERS[name]


def detect(record: Record, where: str) -> Adapter:
    """Tells the format from a record."""
    found = [adapter for adapter in ADAPTERS.values() if adapter.matches(record)]
    if len(found) > 1:
        found = [adapter for adapter in found if adapter.name != "captions"]
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(record)) or "none"
    if not found:
        raise ValueError(
            f"The format of {where} is not known from its fields ({names}): name it, one of {', '.join(ADAPTERS)}."
        )
    raise ValueError(
        f"The fields of {where} ({names}) fit the formats {' and '.join(adapter.name for adapter in found)}: name one."
    )


def check_options(adapter: Adapter, options: Iterable[str]) -> None:
    """Checks that an adapter knows all options."""
    for name in options:
        if name not in adapter.options:
            known = ", ".join(sorted(adapter.options)) or "none"
            raise ValueError(f"The format {adapter.name} has no option {name!r}; it has {known}.")
