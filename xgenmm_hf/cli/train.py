"""``xgenmm train``: the stages of the recipe, with every option of TRL and of the Trainer."""

import logging
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option


CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What `app.command` must be given for this verb: options that typer does not know go to TRL's parser."""


def train(
    context: typer.Context,
    stage: Annotated[Literal["pretrain", "sft", "dpo", "safety"], Argument(help="Which stage.")],
    config: Annotated[str | None, Option(metavar="NAME", help="A YAML file, or a shipped one such as sft_4b.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show the data: counts, lengths, rejected rows.")] = False,
    output: Annotated[
        str | None,
        Option(metavar="DIR", help="With --dry-run: write report.json, problems.jsonl and lengths.png here."),
    ] = None,
    options: Annotated[bool, Option("--options", help="List every option of the stage, and exit.")] = False,
) -> None:
    """Train a model; further options are the recipe's, such as --max_steps 3.

    The same options run on several devices: accelerate launch -m xgenmm_hf.training STAGE --config NAME.
    """
    from xgenmm_hf.training.__main__ import check_libraries, show_messages

    if output is not None and not dry_run:
        raise ValueError("--output is for --dry-run; a training's folder is --output_dir.")
    check_libraries()
    given = [*(["--config", config] if config else []), *context.args]
    # A run lasts hours: unlike in the other verbs, what libraries warn of is worth reading.
    logging.disable(logging.NOTSET)
    warnings.resetwarnings()
    for category in (FutureWarning, DeprecationWarning):  # those are for the libraries' own callers
        warnings.simplefilter("ignore", category)
    show_messages()
    if options:
        from xgenmm_hf.training.arguments import RecipeParser

        RecipeParser(stage).print_help()
    elif dry_run:
        preview(stage, given, output)
    else:
        from xgenmm_hf.training.run import run_stage

        print(run_stage(stage, given))


def preview(stage: str, given: list[str], output: str | None = None) -> None:
    """Shows what a stage would train on, as `xgenmm data` does, with images cut as the training cuts them."""
    from xgenmm_hf import XGenMMProcessor
    from xgenmm_hf.cli.data import show_mixture
    from xgenmm_hf.data.preview import require_libraries
    from xgenmm_hf.inference.source import resolve_model
    from xgenmm_hf.training.arguments import parse_recipe
    from xgenmm_hf.training.loading import config_of, cut_as, mixture_path

    require_libraries()
    # a dry run computes nothing, so it needs no accelerator
    recipe = parse_recipe(stage, [*given, "--use_cpu", "true"])
    name = recipe.data.mixture
    if name and (Path(name).expanduser() / "dataset_info.json").is_file():
        raise ValueError(f"{name} holds saved rows, which were checked when they were made: name a mixture or a file.")
    mixture = str(mixture_path(recipe, name))
    source = resolve_model(recipe.base)
    config = config_of(recipe, source)
    processor = cut_as(XGenMMProcessor.from_pretrained(source, revision=recipe.model.model_revision), config)
    show_mixture(
        mixture, processor, output, max_length=recipe.training.max_length, image_aspect_ratio=config.image_aspect_ratio
    )
