"""POPE: is there such a thing in the image? JSON Lines (POPE's own end with .json), or lmms-eval's rows."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.evaluation.tasks.collecting import Collector
from xgenmm_hf.evaluation.tasks.records import BadRow, first_of, read_records, text_of
from xgenmm_hf.evaluation.tasks.vqa import ID_FIELDS, IMAGE_FIELDS


LABELS = ("yes", "no")
STRATEGIES = ("random", "popular", "adversarial")


def read_pope(files: Sequence[Path], collector: Collector) -> None:
    """Reads probes: `{"question_id", "image", "text", "label"}` a row.

    The category is the row's, or the strategy that the file's name ends with (coco_pope_popular.json). Questions of
    different categories may share an id.

    Args:
        files: The files, such as one for each strategy.
        collector: Takes samples and problems.
    """
    for path in files:
        strategy = next((name for name in STRATEGIES if re.search(rf"(^|[_\-.]){name}($|[_\-.])", path.stem)), "")

        def make(row: Mapping[str, Any], strategy: str = strategy) -> Iterator[Sample]:
            category = text_of(row, "category", optional=True) or strategy
            label = text_of(row, "label", "answer").lower()
            if label not in LABELS:
                raise BadRow(f"the label {label!r} is unknown; known are yes and no")
            name = text_of(row, *ID_FIELDS)
            yield Sample(
                f"{category}/{name}" if category else name,
                text_of(row, "text", "question"),
                (collector.image(first_of(row, IMAGE_FIELDS)),),
                (label,),
                category,
                {"label": label},
            )

        collector.collect(read_records(path), make)
