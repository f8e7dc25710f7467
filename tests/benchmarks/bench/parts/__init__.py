"""The parts that are measured, a module each; `PARTS` names them in the order of the table."""

from collections.abc import Callable
from importlib import import_module

from bench.rows import Row
from bench.session import Session


PARTS = {
    "images": "images",
    "tower": "vision",
    "resampler": "vision",
    "prefill": "text",
    "decode": "text",
    "first-token": "answering",
    "cache": "answering",
    "load": "loading",
    "sft": "training",
    "dpo": "training",
    "quantisation": "quantisation",
}


def find_part(name: str) -> Callable[[Session], list[Row]]:
    """Returns the function that measures a part.

    Args:
        name: One of `PARTS`.

    Returns:
        A function from a session to rows.

    Raises:
        ValueError: If there is no such part.
    """
    if name not in PARTS:
        raise ValueError(f"There is no part {name!r}; there are {', '.join(PARTS)}.")
    module = import_module(f"bench.parts.{PARTS[name]}")
    measure: Callable[[Session], list[Row]] = getattr(module, f"measure_{name.replace('-', '_')}")
    return measure
