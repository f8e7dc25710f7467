"""The rows of a stage: a mixture's, or a saved `datasets` folder's, of the kind that the stage trains on."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import load_from_disk

from xgenmm_hf import recipes
from xgenmm_hf.data.lengths import add_lengths
from xgenmm_hf.data.mixture import load_mixture
from xgenmm_hf.data.rows import row_kind
from xgenmm_hf.inference.prompt_form import PromptForm
from xgenmm_hf.training.answers import joined_text
from xgenmm_hf.training.arguments import Recipe


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


Prepare = Callable[[Any], Any]

NO_DATA = "No data is named: set mixture in the recipe or --mixture."
# A prompt form is what so large a share of the first rows have in common.
SHARED_BY, ROWS_LOOKED_AT = 0.9, 1000
KIND_OF_STAGE = {"pretrain": "pretraining", "sft": "chat", "safety": "chat", "dpo": "preference"}


def load_stage_rows(recipe: Recipe, processor: "XGenMMProcessor") -> tuple[Any, Any]:
    """Loads the rows that a run trains on, measured where they are grouped, and those it is evaluated on or None."""
    data = recipe.data
    if data.mixture is None:
        raise ValueError(NO_DATA)
    if data.streaming and recipe.training.max_steps < 1:
        raise ValueError("A stream has no length: set max_steps, or leave streaming out.")
    # Preference pairs keep the trainer's own order.
    grouped = data.group_by_modality_length and not data.streaming and recipe.stage != "dpo"
    prepare = partial(measure_source, recipe, processor) if grouped else None
    train = open_rows(recipe, data.mixture, data.streaming, prepare)
    return train, None if data.eval_mixture is None else open_rows(recipe, data.eval_mixture)


def measure_source(recipe: Recipe, processor: "XGenMMProcessor", rows: Any) -> Any:
    """Adds the lengths of a source's rows."""
    check_kind(recipe, recipe.data.mixture, rows)
    workers = recipe.training.dataset_num_proc
    return add_lengths(rows, processor, num_proc=workers, image_aspect_ratio=recipe.data.image_aspect_ratio)


def open_rows(recipe: Recipe, name: str, streaming: bool = False, prepare: Prepare | None = None) -> Any:
    """Opens one mixture, data file or saved folder."""
    folder = Path(name).expanduser()
    if (folder / "dataset_info.json").is_file():
        rows: Any = load_from_disk(str(folder))
        rows = rows.to_iterable_dataset() if streaming else rows if prepare is None else prepare(rows)
    else:
        rows = load_mixture(mixture_path(recipe, name), streaming=streaming, prepare=prepare).dataset
    check_kind(recipe, name, rows)
    return rows


def check_kind(recipe: Recipe, name: str | None, rows: Any) -> None:
    """Checks that there are rows, of the kind that a stage trains on."""
    first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{name} holds no row.")
    kind, wanted = row_kind(first), KIND_OF_STAGE[recipe.stage]
    if kind != wanted:
        raise ValueError(f"{name} holds rows of kind {kind}; xgenmm train {recipe.stage} takes rows of kind {wanted}.")


def mixture_path(recipe: Recipe, name: str | None) -> Path:
    """Finds a mixture's file: as a path, beside the recipe, or among the shipped ones."""
    if not name:
        raise ValueError(NO_DATA)
    return recipes.find(name, beside=recipe.path.parent if recipe.path else None)


def count_sources(rows: Any) -> dict[str, int]:
    """Counts rows by source; nothing for a stream, whose rows are not counted in advance."""
    if not hasattr(rows, "__len__"):
        return {}
    return dict(sorted(Counter(rows["source"][:]).items()))


def prompt_form_of(rows: Any) -> PromptForm:
    """Reads off conversation rows how they put questions: their last lines, and their system turns."""
    suffixes: Counter[str] = Counter()
    systems: Counter[str | None] = Counter()
    for row in islice(rows, ROWS_LOOKED_AT):
        messages = row.get("messages") or row.get("prompt") or []
        questions = [message for message in messages if message["role"] == "user"]
        _, break_, last = joined_text(questions[:1]).strip("\n").rpartition("\n")
        suffixes[break_ + last if break_ else ""] += 1
        found = [message for message in messages if message["role"] == "system"]
        systems[joined_text(found[:1]) if found else None] += 1
    return PromptForm(_most_shared(suffixes) or "", _most_shared(systems))


def _most_shared(counts: Counter) -> Any:
    """Returns what at least nine of ten share, or None."""
    value, number = counts.most_common(1)[0] if counts else (None, 0)
    return value if number >= SHARED_BY * counts.total() else None
