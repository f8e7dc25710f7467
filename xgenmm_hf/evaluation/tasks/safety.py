"""VLGuard: unsafe images, and safe images with a safe and with an unsafe instruction."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks.collector import Collector
from xgenmm_hf.evaluation.tasks.reading import BadRow, read_rows, text_of


# The subsets by the names of VLGuard's evaluation.
UNSAFES, SAFE_UNSAFES, SAFE_SAFES = "unsafes", "safe_unsafes", "safe_safes"
_OF_SAFE_IMAGES = {"unsafe_instruction": SAFE_UNSAFES, "safe_instruction": SAFE_SAFES}


def read_vlguard(files: Sequence[Path], collector: Collector) -> None:
    """Reads VLGuard's JSON.

    `{"id", "image", "safe", "instr-resp"}` a row. An unsafe image has one instruction under "instruction", a safe
    one two, under "safe_instruction" and "unsafe_instruction"; each is a sample.
    """

    def make(row: Mapping[str, Any]) -> Iterator[Sample]:
        if not isinstance(row.get("safe"), bool):
            raise BadRow(f"safe is {row.get('safe')!r}; it must be true or false")
        turns = row.get("instr-resp")
        if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
            raise BadRow("instr-resp is missing or no list of instructions")
        name, image = text_of(row, "id", "image"), collector.image(row.get("image"))
        for field, subset in (_OF_SAFE_IMAGES if row["safe"] else {"instruction": UNSAFES}).items():
            turn: Mapping[str, Any] = next((turn for turn in turns if turn.get(field)), {})
            response = text_of(turn, "response", optional=True)
            references, facts = (response,) if response else (), {"safe": subset == SAFE_SAFES}
            yield Sample(f"{name}/{subset}", text_of(turn, field), (image,), references, subset, facts)

    for path in files:
        collector.collect(read_rows(path), make)
