"""Conversion between the original checkpoint layouts and ours.

The names below load on first use, so that importing this package stays cheap.
"""

from importlib import import_module
from typing import Any


__all__ = ["convert_checkpoint", "convert_state_dict", "export_checkpoint", "export_state_dict"]


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that its first word names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.partition('_')[0]}"), name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return __all__
