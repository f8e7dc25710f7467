"""Options of the training stages: all options of TRL and of the Trainer, and a few of this package.

Options come from a YAML file (`--config`, a path or the name of a shipped recipe) and from the command line, which
takes precedence. A wrong option raises a `ValueError` of one sentence.
"""

import difflib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import DPOConfig, ModelConfig, SFTConfig, TrlParser

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL, recipes
from xgenmm_hf.training import STAGES
from xgenmm_hf.training.ineffective import check_effective


LOADER_WORKERS = 2
FRESH, LAST = "false", "auto"
EMBEDDED = {"embedded": TINY_MODEL, "embedded-base": TINY_BASE_MODEL}
"""Names of the embedded checkpoints in `model_name_or_path`."""
PATHS = ("output_dir", "model_name_or_path", "deepspeed")
RENAMED = {"max_unreadable": "max_dropped", "noised_rejections": "a script, examples/noised_rejections.py,"}


def option(default: Any, help: str) -> Any:
    """Declares an option with its default and its help text."""
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """What a stage trains on."""

    mixture: str | None = option(None, "Training data: a mixture's YAML file, a data file, or a folder of saved rows.")
    eval_mixture: str | None = option(None, "Evaluation data, given in the same way as mixture.")
    streaming: bool = option(False, "Read rows as they are needed instead of indexing them; needs max_steps.")
    max_dropped: float = option(
        0.01, "The run stops if more than this share of rows has an unreadable image or no room for an answer."
    )
    group_by_modality_length: bool = option(True, "Make batches of one modality and similar length; not for DPO.")
    image_aspect_ratio: str | None = option(
        None, "How images are cut, in training and in the saved model: anyres, none or pad; default: the checkpoint's."
    )
    anyres_tiles: list[str] | None = option(None, "Grids in tiles, width x height, such as 1x2 2x1 2x2.")
    eval_generate: int = option(0, "Number of evaluation rows that every evaluation also answers and logs.")

    def __post_init__(self) -> None:
        if not 0 <= self.max_dropped <= 1:
            raise ValueError(f"max_dropped is {self.max_dropped}; it is a share between 0 and 1.")
        if self.eval_generate < 0:
            raise ValueError(f"eval_generate is {self.eval_generate}; it is a number of rows, or 0 for none.")
        if self.eval_generate and not self.eval_mixture:
            raise ValueError("eval_generate answers rows of eval_mixture: name one, or leave eval_generate out.")
        if self.image_aspect_ratio not in (None, "anyres", "none", "pad"):
            raise ValueError(f"image_aspect_ratio is {self.image_aspect_ratio!r}; use anyres, none or pad.")
        odd = [grid for grid in self.anyres_tiles or [] if not re.fullmatch(r"[1-9]\d?x[1-9]\d?", str(grid))]
        if odd:
            raise ValueError(f"anyres_tiles holds {odd[0]!r}; write width x height in tiles, such as 1x2.")

    def grids(self, tile_size: int) -> list[list[int]] | None:
        """Returns `anyres_tiles` as (width, height) in pixels, or None where they are not given."""
        if not self.anyres_tiles:
            return None
        return [[int(side) * tile_size for side in grid.split("x")] for grid in self.anyres_tiles]


@dataclass
class ModuleArguments:
    """Which parts of the model train."""

    unfreeze_vision: bool = option(False, "Train the vision tower too.")
    freeze_resampler: bool = option(False, "Do not train the resampler.")
    freeze_language_model: bool = option(False, "Do not train the language model and its head.")
    lora_vision: bool = option(False, "LoRA: adapt the linear layers of the vision tower too.")
    lora_resampler: bool = option(False, "LoRA: train the whole resampler in addition to the adapter.")
    lora_added_tokens: bool = option(True, "LoRA: train the embeddings of the three added tokens.")
    merge_adapter: bool = option(False, "LoRA: also save a merged model, in merged/.")
    vision_learning_rate: float | None = option(None, "Learning rate of the vision tower; default: learning_rate.")
    resampler_learning_rate: float | None = option(None, "Learning rate of the resampler; default: learning_rate.")


@dataclass(frozen=True)
class Recipe:
    """All options of a run: `options` are those that were given, `base` is the model that training starts from."""

    stage: str
    data: DataArguments
    modules: ModuleArguments
    training: Any
    model: ModelConfig
    base: str
    path: Path | None
    options: dict[str, Any]


class RecipeParser(TrlParser):
    """TRL's parser, with errors that are one sentence instead of a page of usage."""

    def __init__(self, stage: str):
        if stage not in STAGES:
            raise ValueError(f"There is no stage {stage!r}; there are {', '.join(STAGES)}.")
        config = DPOConfig if stage == "dpo" else SFTConfig
        classes: tuple[Any, ...] = (DataArguments, ModuleArguments, config, ModelConfig)
        self.options = [entry.name for one in classes for entry in fields(one) if entry.init]
        super().__init__(classes, prog=f"xgenmm train {stage}", allow_abbrev=False)
        # Workers read images in parallel with the training steps.
        self.set_defaults(dataloader_num_workers=LOADER_WORKERS)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse found wrong."""
        raise ValueError(f"{message[:1].upper()}{message[1:]}; --options lists the options.")

    def suggest(self, name: str) -> str:
        """Returns a hint about an unknown option: its new name, the closest known option, or how to list all."""
        if name in RENAMED:
            return f"; it is {RENAMED[name]} now."
        close = difflib.get_close_matches(name.replace("-", "_"), self.options, n=1)
        return f"; did you mean {close[0]}?" if close else "; --options lists them."


def parse_recipe(stage: str, arguments: Sequence[str]) -> Recipe:
    """Parses the options of a run from its recipe and its command line."""
    parser = RecipeParser(stage)
    path, overrides = split_config(arguments)
    config = read_recipe(path, parser) if path else {}
    unknown = parser.parse_known_args(overrides)[1]
    if unknown:
        raise ValueError(f"There is no option {unknown[0]}{parser.suggest(unknown[0].lstrip('-'))}")
    data, modules, training, model = build_arguments(parser, {**config, **resolve_paths(path, config)}, overrides)
    if not model.model_name_or_path:
        raise ValueError("No model is named: set model_name_or_path in the recipe or --model_name_or_path.")
    values = {name: value for part in (data, modules, training, model) for name, value in vars(part).items()}
    options = {**config, **{name: values[name] for name in named_in(overrides, parser)}}
    check_effective(stage, options, values)
    base = EMBEDDED.get(model.model_name_or_path, model.model_name_or_path)
    return Recipe(stage, data, modules, training, model, base, path, options)


def read_recipe(path: Path, parser: RecipeParser) -> dict[str, Any]:
    """Reads a recipe's options; sets the variables under `env` in the environment, as TRL does."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a YAML mapping of options, such as `learning_rate: 2.0e-5`.")
    os.environ.update({name: str(value) for name, value in (config.pop("env", None) or {}).items()})
    for name in config:
        if name not in parser.options:
            raise ValueError(f"{path} has an unknown option {name}{parser.suggest(str(name))}")
    return config


def resolve_paths(path: Path | None, config: dict[str, Any]) -> dict[str, str]:
    """Resolves a recipe's relative paths from its folder; paths of shipped recipes stay as they are."""
    if path is None or recipes.RECIPES in path.resolve().parents:
        return {}
    resolved: dict[str, str] = {}
    for name in PATHS:
        value = config.get(name)
        if isinstance(value, str) and not Path(value).expanduser().is_absolute():
            place = path.parent / value
            resolved |= {name: str(place)} if name == "output_dir" or place.exists() else {}
    return resolved


def build_arguments(parser: RecipeParser, config: dict[str, Any], overrides: list[str]) -> tuple[Any, ...]:
    """Parses a recipe's options together with the command line's `overrides`, which take precedence."""
    parser.set_defaults(**{name: None for name, value in config.items() if value is None})
    words = []
    for name, value in config.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    try:
        return parser.parse_args_into_dataclasses([*words, *overrides])
    except ValueError as error:
        if "bf16/gpu" in str(error):
            raise ValueError(
                "This machine has no accelerator that computes in bfloat16: add --use_cpu true to train on the CPU, "
                "or --bf16 false for float32."
            ) from None
        raise


def split_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Splits a command line into the path of its `--config` and the other arguments."""
    rest = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if rest.count("--config") > 1:
        raise ValueError("--config is given twice; a run has one recipe.")
    if "--config" not in rest:
        return None, rest
    index = rest.index("--config")
    if index + 1 == len(rest):
        raise ValueError(f"--config needs a path or the name of a shipped recipe: {', '.join(recipes.names())}.")
    return recipes.find(rest[index + 1]), rest[:index] + rest[index + 2 :]


def named_in(overrides: Sequence[str], parser: RecipeParser) -> list[str]:
    """Returns the options that a command line names, including those written as `--no_name`."""
    words = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in overrides if word.startswith("--")]
    names = [word if word in parser.options else word.removeprefix("no_") for word in words]
    return [name for name in names if name in parser.options]


def resume_choice(value: Any) -> str:
    """Returns `FRESH`, `LAST` or a path from a value of `resume_from_checkpoint`."""
    text = str(value).strip()
    if value is None or text.lower() in ("true", "auto", "last"):
        return LAST
    return FRESH if text.lower() in ("false", "no", "none") else text


def describe_options(options: dict[str, Any]) -> str:
    """Returns options as YAML, for a model card."""
    plain = json.loads(json.dumps(options, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).strip()
