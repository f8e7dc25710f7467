"""The rows of a stage: a mixture's, or a saved `datasets` folder's, of the kind that the stage trains on."""

from collections import Counter
from pathlib import Path
from typing import Any

from xgenmm_hf import recipes
from xgenmm_hf.data.rows import row_kind
from xgenmm_hf.training.arguments import Recipe
from xgenmm_hf.training.lengths import add_lengths


NO_DATA = "No data is named: set mixture in the recipe or --mixture."
KIND_OF_STAGE = {"pretrain": "pretraining", "sft": "chat", "safety": "chat", "dpo": "preference"}


def load_rows(recipe: Recipe, processor: Any) -> tuple[Any, Any]:
    """Loads the rows that a run trains and is evaluated on.

    Args:
        recipe: Its options.
        processor: The processor, which measures rows that are to be grouped by length.

    Returns:
        The training rows, a `datasets.Dataset` or `IterableDataset`, and the evaluation rows or None.

    Raises:
        ValueError: If no data is named, or its rows are of a kind that the stage does not train on.
    """
    if recipe.data.mixture is None:
        raise ValueError(NO_DATA)
    if recipe.data.streaming and recipe.training.max_steps < 1:
        raise ValueError("A stream has no length: set max_steps, or leave streaming out.")
    train = open_rows(recipe, recipe.data.mixture, streaming=recipe.data.streaming)
    if recipe.data.group_by_modality_length and hasattr(train, "__len__"):
        workers = recipe.training.dataset_num_proc
        train = add_lengths(train, processor, num_proc=workers, image_aspect_ratio=recipe.data.image_aspect_ratio)
    evaluated = None
    if recipe.data.eval_mixture is not None:
        evaluated = open_rows(recipe, recipe.data.eval_mixture, streaming=False)
    return train, evaluated


def open_rows(recipe: Recipe, name: str, streaming: bool) -> Any:
    """Opens one mixture or saved folder.

    Args:
        recipe: The run's options.
        name: A mixture's path or shipped name, or a folder that `Dataset.save_to_disk` wrote.
        streaming: Whether rows are read as they are needed.

    Returns:
        The rows.

    Raises:
        ValueError: If there is nothing of that name, no row in it, or rows of another kind.
    """
    import datasets

    folder = Path(name).expanduser()
    if (folder / "dataset_info.json").is_file():
        rows = datasets.load_from_disk(str(folder))
        rows = rows.to_iterable_dataset() if streaming else rows
    else:
        rows = open_mixture(recipe, name, streaming)
    first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{name} holds no row.")
    kind, wanted = row_kind(first), KIND_OF_STAGE[recipe.stage]
    if kind != wanted:
        raise ValueError(f"{name} holds rows of kind {kind}; xgenmm train {recipe.stage} takes rows of kind {wanted}.")
    return rows


def open_mixture(recipe: Recipe, name: str, streaming: bool) -> Any:
    """Opens the rows of a mixture's YAML file."""
    from xgenmm_hf.data.mixture import load_mixture

    return load_mixture(mixture_path(recipe, name), streaming=streaming).dataset


def mixture_path(recipe: Recipe, name: str | None) -> Path:
    """Finds a mixture's file: as a path, beside the recipe, or among the shipped ones.

    Args:
        recipe: The run's options.
        name: What they call it.

    Returns:
        Its path.

    Raises:
        ValueError: If none is named, or there is no such file.
    """
    if not name:
        raise ValueError(NO_DATA)
    return recipes.find(name, beside=recipe.path.parent if recipe.path else None)


def count_sources(rows: Any) -> dict[str, int]:
    """Counts rows by source; nothing for a stream, whose rows are not counted in advance."""
    if not hasattr(rows, "__len__"):
        return {}
    return dict(sorted(Counter(rows["source"][:]).items()))
