"""Conversion between the original checkpoint layouts and ours.

The names below load on first use, so that importing this package stays cheap.
"""

from importlib import import_module
from typing import Any


_HOMES = {
    "convert_state_dict": "convert",
    "convert_checkpoint": "convert",
    "ConversionResult": "convert",
    "export_state_dict": "export",
    "export_checkpoint": "export",
    "ExportResult": "export",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Loads a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return sorted(__all__)
