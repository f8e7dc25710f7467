"""Public data formats -> training rows; `ADAPTERS` has the formats by name."""

from collections.abc import Iterable

from xgenmm_hf.data.adapters import conversations, preferences, pretraining
from xgenmm_hf.data.adapters.base import Adapter
from xgenmm_hf.data.fields import Record


ADAPTERS = {
    adapter.name: adapter for adapter in (*conversations.ADAPTERS, *pretraining.ADAPTERS, *preferences.ADAPTERS)
}
AUTO = "auto"


def adapter_of(name: str) -> Adapter:
    """Returns the adapter of a format."""
    if name not in ADAPTERS:
        raise ValueError(f"There is no data format {name!r}; there are {', '.join(ADAPTERS)}, or {AUTO}.")
    return ADAPTERS[name]


def detect(record: Record, where: str) -> Adapter:
    """Returns the adapter of the format that a record has."""
    found = [adapter for adapter in ADAPTERS.values() if adapter.matches(record)]
    if len(found) > 1:
        found = [adapter for adapter in found if adapter.name != "captions"]
    if len(found) == 1:
        return found[0]
    fields, known = ", ".join(sorted(record)) or "none", ", ".join(ADAPTERS)
    if not found:
        raise ValueError(f"The format of {where} is not known from its fields ({fields}): name it, one of {known}.")
    names = " and ".join(adapter.name for adapter in found)
    raise ValueError(f"The fields of {where} ({fields}) fit the formats {names}: name one.")


def check_options(adapter: Adapter, options: Iterable[str]) -> None:
    """Checks that an adapter knows all options."""
    for name in options:
        if name not in adapter.options:
            known = ", ".join(sorted(adapter.options)) or "none"
            raise ValueError(f"The format {adapter.name} has no option {name!r}; it has {known}.")
