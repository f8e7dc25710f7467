"""Loading what a stage starts from: a checkpoint's model and processor, and the rows of its mixture."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import load_from_disk
from transformers import set_seed

from xgenmm_hf import XGenMMConfig, XGenMMProcessor, recipes
from xgenmm_hf.conversion.files import output_folder
from xgenmm_hf.data.lengths import add_lengths
from xgenmm_hf.data.mixture import load_mixture
from xgenmm_hf.data.rows import row_kind
from xgenmm_hf.inference.adapters import adapter_base, merge_adapter
from xgenmm_hf.inference.loading import check_files, load_parts
from xgenmm_hf.inference.prompt_form import PromptForm
from xgenmm_hf.inference.quantisation import check_quantised
from xgenmm_hf.inference.source import is_local, resolve_model
from xgenmm_hf.modeling.chat_xgenmm import CHAT_TEMPLATE
from xgenmm_hf.training.answers import joined_text
from xgenmm_hf.training.arguments import Recipe
from xgenmm_hf.training.modules import quantization_config


NO_DATA = "No data is named: set mixture in the recipe or --mixture."
# The share of the first rows that a prompt form needs, and the number of these rows.
SHARED_BY, ROWS_LOOKED_AT = 0.9, 1000
KIND_OF_STAGE = {"pretrain": "pretraining", "sft": "chat", "safety": "chat", "dpo": "preference"}


def load_for_training(recipe: Recipe, quantised: bool = True) -> tuple[Any, Any]:
    """Loads the model and the processor of a run."""
    source = checked_source(recipe.base)
    set_seed(recipe.training.seed)
    config = config_of(recipe, source)
    quantisation = quantization_config(recipe.model) if quantised else None
    options = {
        "config": config,
        "dtype": recipe.model.dtype or "auto",
        "attn_implementation": recipe.model.attn_implementation,
        "quantization_config": quantisation,
        **(recipe.training.model_init_kwargs or {}),
    }
    given = {name: value for name, value in options.items() if value is not None}
    model, processor = load_parts(source, recipe.model.model_revision, **given)
    cut_as(processor, config)
    if recipe.stage != "pretrain" and processor.chat_template is None:  # a base model becomes a chat model
        processor.chat_template = processor.tokenizer.chat_template = CHAT_TEMPLATE
    if quantisation is not None:
        check_quantised(model)
    return model, processor


def cut_as(processor: XGenMMProcessor, config: XGenMMConfig) -> XGenMMProcessor:
    """Makes a processor cut images as a config says, and returns it."""
    processor.image_processor.image_aspect_ratio = config.image_aspect_ratio
    processor.image_processor.anyres_grids = [list(grid) for grid in config.anyres_grids]
    return processor


def checked_source(name: str) -> str:
    """Returns the folder or repository of a model to train; checks the files of a folder."""
    source = resolve_model(adapter_base(name) or name)
    if is_local(source):
        check_files(Path(source))
    return source


def with_merged_base(recipe: Recipe) -> Recipe:
    """Merges the adapter that a run starts from into its base model, and saves the result in the run's folder."""
    base = adapter_base(recipe.base)
    if base is None:
        return recipe
    weights = (Path(recipe.base).expanduser() / "adapter_model.safetensors").read_bytes()
    folder = Path(recipe.training.output_dir) / f"base-{hashlib.sha256(weights).hexdigest()[:8]}"
    with recipe.training.main_process_first(desc="merging the adapter that the run starts from"):
        if not folder.is_dir():
            model, processor = load_for_training(replace(recipe, base=base), quantised=False)
            with output_folder(folder) as draft:
                merge_adapter(model, recipe.base).save_pretrained(draft)
                processor.save_pretrained(draft)
    return replace(recipe, base=str(folder))


def config_of(recipe: Recipe, source: str) -> XGenMMConfig:
    """Reads a checkpoint's config and sets the recipe's image mode and grids in it."""
    where = {"revision": recipe.model.model_revision}
    config = XGenMMConfig.from_pretrained(source, **where)
    changes = {
        "image_aspect_ratio": recipe.data.image_aspect_ratio,
        "anyres_grids": recipe.data.grids(config.tile_size),
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return XGenMMConfig.from_pretrained(source, **where, **given) if given else config


def load_stage_rows(recipe: Recipe, processor: XGenMMProcessor) -> tuple[Any, Any]:
    """Loads the training rows, measured if they are grouped by length, and the evaluation rows or None."""
    data = recipe.data
    if data.mixture is None:
        raise ValueError(NO_DATA)
    if data.streaming and recipe.training.max_steps < 1:
        raise ValueError("A stream has no length: set max_steps, or leave streaming out.")

    def measure(rows: Any) -> Any:
        check_kind(recipe, data.mixture, rows)
        return add_lengths(rows, processor, recipe.training.dataset_num_proc, data.image_aspect_ratio)

    # Preference pairs keep the trainer's own order.
    grouped = data.group_by_modality_length and not data.streaming and recipe.stage != "dpo"
    train = open_rows(recipe, data.mixture, data.streaming, measure if grouped else None)
    return train, None if data.eval_mixture is None else open_rows(recipe, data.eval_mixture)


def open_rows(recipe: Recipe, name: str, streaming: bool = False, prepare: Callable[[Any], Any] | None = None) -> Any:
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
    """Finds a mixture's file: as a path, next to the recipe, or among the shipped ones."""
    if not name:
        raise ValueError(NO_DATA)
    return recipes.find(name, beside=recipe.path.parent if recipe.path else None)


def count_sources(rows: Any) -> dict[str, int]:
    """Counts rows by source; nothing for a stream, whose rows are not counted in advance."""
    if not hasattr(rows, "__len__"):
        return {}
    return dict(sorted(Counter(rows["source"][:]).items()))


def prompt_form_of(rows: Any) -> PromptForm:
    """Returns the prompt form of conversation rows: the last line of their questions, and their system turn."""
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
    """Returns the most frequent value if its share is at least `SHARED_BY`, else None."""
    value, number = counts.most_common(1)[0] if counts else (None, 0)
    return value if number >= SHARED_BY * counts.total() else None
