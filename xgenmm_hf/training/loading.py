"""Loading what a stage starts from: a checkpoint's model and processor, cut to the way the stage shows images."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.conversion.files import output_folder
from xgenmm_hf.conversion.tensors import listed
from xgenmm_hf.inference.adapters import adapter_base, merge_adapter
from xgenmm_hf.inference.loading import check_files
from xgenmm_hf.inference.quantisation import check_quantised
from xgenmm_hf.inference.source import is_local, resolve_model
from xgenmm_hf.modeling.chat_xgenmm import CHAT_TEMPLATE
from xgenmm_hf.modeling.compat_xgenmm import names_of_mismatched
from xgenmm_hf.training.arguments import Recipe
from xgenmm_hf.training.modules import quantization_config


def load_for_training(recipe: Recipe, quantised: bool = True) -> tuple[Any, Any]:
    """Loads the model and the processor of a run."""
    source = checked_source(recipe.base)
    set_seed(recipe.training.seed)
    where = hub_options(recipe, source)
    config = config_of(recipe, source, where)
    quantisation = quantization_config(recipe.model) if quantised else None
    options = {
        "config": config,
        "dtype": recipe.model.dtype or "auto",
        "attn_implementation": recipe.model.attn_implementation,
        "quantization_config": quantisation,
        **(recipe.training.model_init_kwargs or {}),
    }
    try:
        model, report = XGenMMForConditionalGeneration.from_pretrained(
            source,
            output_loading_info=True,
            **where,
            **{name: value for name, value in options.items() if value is not None},
        )
        processor = load_processor(source, config, where)
        if recipe.stage != "pretrain" and processor.chat_template is None:  # tuning on chats makes a base model one
            processor.chat_template = processor.tokenizer.chat_template = CHAT_TEMPLATE
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{source} could not be loaded: {error}") from error
    gaps = [*report["missing_keys"], *names_of_mismatched(report)]
    if gaps:
        raise ValueError(
            f"The weights in {source} do not fit its config.json ({listed(gaps)}); use one model's files."
        )
    if quantisation is not None:
        check_quantised(model)
    return model, processor


def load_processor(source: str, config: XGenMMConfig, where: dict[str, Any]) -> XGenMMProcessor:
    """Loads a processor that cuts images as a stage does."""
    processor = XGenMMProcessor.from_pretrained(source, **where)
    processor.image_processor.image_aspect_ratio = config.image_aspect_ratio
    processor.image_processor.anyres_grids = [list(grid) for grid in config.anyres_grids]
    return processor


def hub_options(recipe: Recipe, source: str) -> dict[str, Any]:
    """Returns the options of the Hub that a run's source is loaded with; a folder has none."""
    return {} if is_local(source) else {"revision": recipe.model.model_revision}


def checked_source(name: str) -> str:
    """Returns the folder or repository of a model to train."""
    source = resolve_model(adapter_base(name) or name)
    if is_local(source):
        check_files(Path(source))
    return source


def with_merged_base(recipe: Recipe) -> Recipe:
    """Merges the adapter that a run starts from into its base model, saved in the run's folder.

    A new adapter, a quantised model and DPO's reference then start from weights that are on disk.
    """
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


def config_of(recipe: Recipe, source: str, where: dict[str, Any]) -> XGenMMConfig:
    """Reads a checkpoint's config, with the stage's way of showing images in it."""
    config = XGenMMConfig.from_pretrained(source, **where)
    grids = recipe.data.grids(config.tile_size)
    changes = {
        "image_aspect_ratio": recipe.data.image_aspect_ratio,
        "anyres_grids": grids,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return XGenMMConfig.from_pretrained(source, **where, **given) if given else config
