"""Published numbers of the family, to print beside those of one's own run."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any


FILE = Path(__file__).with_name("reference_values.yaml")
_PERCENT = 100.0
_ALIASES = {"coco": "coco_captions", "seed": "seed_img", "qbench2": "qbench", "mantis": "mantis_eval"}


@dataclass(frozen=True)
class ReferenceValue:
    """A published number.

    Args:
        model: The model.
        benchmark: The benchmark, such as "vqav2" or "mmbench".
        value: The number in the unit of its source: percent, CIDEr times 100, points for MME's totals.
        shots: Examples in the prompt; None where the source does not speak of examples.
        source: Where it stands.
        address: The source's address.
        note: What the source says about how it was measured.
        measure: Name of our measure for it; empty where we have none.
    """

    model: str
    benchmark: str
    value: float
    shots: int | None
    source: str
    address: str
    note: str
    measure: str = ""


@functools.cache
def reference_values() -> tuple[ReferenceValue, ...]:
    """Returns all numbers, in the order of the file.

    Raises:
        ValueError: If the file states a value without a known source.
    """
    import yaml

    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    sources, measures = document["sources"], document["measures"]
    found = []
    for entry in document["values"]:
        source = sources.get(entry["source"])
        if source is None:
            raise ValueError(f"{FILE.name} has values of a source {entry['source']!r} that it does not list.")
        found += [
            ReferenceValue(
                entry["model"],
                benchmark,
                float(value),
                entry.get("shots"),
                source["title"],
                source["address"],
                source["note"],
                measures.get(benchmark, ""),
            )
            for benchmark, value in entry["scores"].items()
        ]
    return tuple(found)


def benchmark_of(name: str) -> str:
    """Returns the benchmark that a task's name means: small letters, other signs as "_" ("COCO" is coco_captions)."""
    plain = "_".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())
    return _ALIASES.get(plain, plain)


def published(task: str, shots: int = 0) -> list[dict[str, Any]]:
    """Returns what can stand beside the measures of a run.

    Args:
        task: Name or kind of the task.
        shots: Examples in the run's prompts; numbers of other counts are left out.

    Returns:
        `{"model", "metric", "value", "source"}` each: the metric by our name, the value in our unit, where shares and
        CIDEr are a hundredth of what is stated.
    """
    benchmark = benchmark_of(task)
    return [
        {"model": one.model, "metric": one.measure, "value": round(one.value / _PERCENT, 6), "source": one.source}
        for one in reference_values()
        if one.benchmark == benchmark and one.measure and (one.shots or 0) == shots
    ]
