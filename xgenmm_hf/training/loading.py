"""Loading what a stage starts from: a checkpoint's model and processor, cut to the way the stage shows images."""

from pathlib import Path
from typing import Any

from transformers import set_seed

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.conversion.tensors import listed
from xgenmm_hf.inference.loading import check_files
from xgenmm_hf.inference.source import is_local, resolve_model
from xgenmm_hf.modeling.compat_xgenmm import names_of_mismatched
from xgenmm_hf.training.arguments import Recipe
from xgenmm_hf.training.modules import quantization_config


def load_for_training(recipe: Recipe) -> tuple[Any, Any]:
    """Loads the model and the processor of a run.

    Args:
        recipe: Its options.

    Returns:
        The model, on the CPU unless it is quantised, and the processor.

    Raises:
        ValueError: If the checkpoint is missing, of another kind, or incomplete.
    """
    source = checked_source(recipe.base)
    set_seed(recipe.training.seed)
    where = hub_options(recipe, source)
    config = config_of(recipe, source, where)
    options = {
        "config": config,
        "dtype": recipe.model.dtype or "auto",
        "attn_implementation": recipe.model.attn_implementation,
        "quantization_config": quantization_config(recipe.model),
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
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{source} could not be loaded: {error}") from error
    gaps = [*report["missing_keys"], *names_of_mismatched(report)]
    if gaps:
        raise ValueError(
            f"The weights in {source} do not fit its config.json ({listed(gaps)}); use one model's files."
        )
    # It was given to the loader; the trainer would warn that the model exists already.
    recipe.training.model_init_kwargs = None
    return model, processor


def load_processor(source: str, config: XGenMMConfig, where: dict[str, Any]) -> XGenMMProcessor:
    """Loads a processor that cuts images as a stage does.

    Args:
        source: Folder or repository.
        config: What `config_of` returned.
        where: Options of the Hub.

    Returns:
        The processor.
    """
    processor = XGenMMProcessor.from_pretrained(source, **where)
    processor.image_processor.image_aspect_ratio = config.image_aspect_ratio
    processor.image_processor.anyres_grids = [list(grid) for grid in config.anyres_grids]
    return processor


def hub_options(recipe: Recipe, source: str) -> dict[str, Any]:
    """Returns the options of the Hub that a run's source is loaded with; a folder has none."""
    return {} if is_local(source) else {"revision": recipe.model.model_revision}


def checked_source(name: str) -> str:
    """Returns the folder or repository of a model to train.

    Args:
        name: `model_name_or_path`.

    Raises:
        ValueError: If it is no checkpoint, one in the original layout, or an adapter.
    """
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{name} is an adapter: train it with --merge_adapter true and start from its merged/ folder instead."
        )
    source = resolve_model(name)
    if is_local(source):
        check_files(Path(source))
    return source


def config_of(recipe: Recipe, source: str, where: dict[str, Any]) -> XGenMMConfig:
    """Reads a checkpoint's config, with the stage's way of showing images in it.

    Args:
        recipe: The run's options.
        source: Folder or repository.
        where: Options of the Hub.

    Returns:
        The config.

    Raises:
        ValueError: If the grids cannot be cut into tiles.
    """
    config = XGenMMConfig.from_pretrained(source, **where)
    grids = recipe.data.grids(config.tile_size)
    changes = {
        "image_aspect_ratio": recipe.data.image_aspect_ratio,
        "anyres_grids": grids,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return XGenMMConfig.from_pretrained(source, **where, **given) if given else config
