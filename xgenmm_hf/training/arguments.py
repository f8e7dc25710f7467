"""Options of the training stages: TRL's and the Trainer's whole set, and the few that are ours beside them.

Options come from a YAML file (`--config`, a path or the name of a shipped recipe) and from the command line, which
wins. A mistake in either is one sentence.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import DPOConfig, ModelConfig, SFTConfig, TrlParser

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL, recipes
from xgenmm_hf.training.ineffective import check_effective


LOADER_WORKERS = 2
STAGES = {"pretrain": SFTConfig, "sft": SFTConfig, "dpo": DPOConfig, "safety": SFTConfig}
FRESH, LAST = "false", "auto"
EMBEDDED = {"embedded": TINY_MODEL, "embedded-base": TINY_BASE_MODEL}
"""Names of the embedded checkpoints in `model_name_or_path`."""
PATHS = ("output_dir", "model_name_or_path", "deepspeed")
RENAMED = {"max_unreadable": "max_dropped", "noised_rejections": "a script, examples/noised_rejections.py,"}


@dataclass
class DataArguments:
    """What a stage trains on.

    Args:
        mixture: YAML file of the training data: a path (also relative to the recipe), or a shipped mixture's name.
        eval_mixture: Likewise for evaluation.
        streaming: Whether rows are read as they are needed instead of being indexed first; needs max_steps.
        max_dropped: Share of dropped rows, for an image that cannot be read or a prompt that leaves no room for an
            answer, above which the run stops.
        group_by_modality_length: Whether batches hold rows of one modality and of about one length; not for DPO.
        image_aspect_ratio: How images are cut: anyres, none or pad. Default: as the checkpoint says; the trained
            checkpoint then says this.
        anyres_tiles: Grids of any-resolution mode in tiles, such as 1x2 (one wide, two high). Likewise.
        eval_generate: Number of evaluation rows that every evaluation also answers: the answers are logged as a
            table, and their exact match is the metric `eval_exact_match`. 0: none; not for DPO.
    """

    mixture: str | None = field(default=None, metadata={"help": "YAML file of the training data."})
    eval_mixture: str | None = field(default=None, metadata={"help": "YAML file of the evaluation data."})
    streaming: bool = field(default=False, metadata={"help": "Read rows as they are needed; needs max_steps."})
    max_dropped: float = field(default=0.01, metadata={"help": "Share of dropped rows above which the run stops."})
    group_by_modality_length: bool = field(
        default=True, metadata={"help": "Make batches of one modality and of about one length; not for DPO."}
    )
    image_aspect_ratio: str | None = field(
        default=None, metadata={"help": "How images are cut: anyres, none or pad; default: as the checkpoint says."}
    )
    anyres_tiles: list[str] | None = field(
        default=None, metadata={"help": "Grids in tiles, width x height, such as 1x2 2x1 2x2."}
    )
    eval_generate: int = field(
        default=0, metadata={"help": "Number of evaluation rows that every evaluation also answers and logs."}
    )

    def __post_init__(self) -> None:
        """Checks the values."""
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
    """Which parts of the model train.

    Args:
        unfreeze_vision: Whether the vision tower trains too.
        freeze_resampler: Whether the resampler stays as it is.
        freeze_language_model: Whether the language model and its head stay as they are.
        lora_vision: With LoRA: whether the linear layers of the vision tower get an adapter too.
        lora_resampler: With LoRA: whether the whole resampler trains beside the adapter.
        lora_added_tokens: With LoRA: whether the embeddings of the three added tokens train.
        merge_adapter: With LoRA: whether a merged model is saved in `merged/` beside the adapter.
        vision_learning_rate: Learning rate of the vision tower's weights and adapters. Default: `learning_rate`.
        resampler_learning_rate: Learning rate of the resampler. Default: `learning_rate`.
    """

    unfreeze_vision: bool = field(default=False, metadata={"help": "Train the vision tower too."})
    freeze_resampler: bool = field(default=False, metadata={"help": "Leave the resampler as it is."})
    freeze_language_model: bool = field(default=False, metadata={"help": "Leave the language model as it is."})
    lora_vision: bool = field(default=False, metadata={"help": "LoRA: adapt the vision tower too."})
    lora_resampler: bool = field(default=False, metadata={"help": "LoRA: train the resampler beside the adapter."})
    lora_added_tokens: bool = field(default=True, metadata={"help": "LoRA: train the three added tokens' embeddings."})
    merge_adapter: bool = field(default=False, metadata={"help": "LoRA: also save a merged model, in merged/."})
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the vision tower; default: learning_rate."}
    )
    resampler_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the resampler; default: learning_rate."}
    )


@dataclass(frozen=True)
class Recipe:
    """All options of a run.

    Args:
        stage: "pretrain", "sft", "dpo" or "safety".
        data: What it trains on.
        modules: Which parts train.
        training: TRL's config of the stage.
        model: TRL's config of the model.
        base: Folder or repository of the model that training starts from.
        path: The YAML file, where there is one.
        options: The options as given, file and command line together; they go into the model card.
    """

    stage: str
    data: DataArguments
    modules: ModuleArguments
    training: Any
    model: ModelConfig
    base: str
    path: Path | None
    options: dict[str, Any]


class RecipeParser(TrlParser):
    """TRL's parser, with errors that are one sentence instead of a page of usage.

    Args:
        stage: "pretrain", "sft", "dpo" or "safety".

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(self, stage: str):
        if stage not in STAGES:
            raise ValueError(f"There is no stage {stage!r}; there are {', '.join(STAGES)}.")
        classes: tuple[Any, ...] = (DataArguments, ModuleArguments, STAGES[stage], ModelConfig)
        self.types = {name: kind for one in classes for name, kind in typing.get_type_hints(one).items()}
        self.options = [entry.name for one in classes for entry in fields(one) if entry.init]
        super().__init__(classes, prog=f"xgenmm train {stage}", allow_abbrev=False)
        # Reading images beside the training instead of between its steps.
        self.set_defaults(dataloader_num_workers=LOADER_WORKERS)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse found wrong."""
        raise ValueError(f"{message[:1].upper()}{message[1:]}; --options lists the options.")

    def suggest(self, name: str) -> str:
        """Returns the end of a sentence about an unknown option: the closest known one, or where they are listed."""
        if name in RENAMED:
            return f"; it is {RENAMED[name]} now."
        close = difflib.get_close_matches(name.replace("-", "_"), self.options, n=1)
        return f"; did you mean {close[0]}?" if close else "; --options lists them."

    def number_type(self, name: str) -> type | None:
        """Returns int or float for an option that takes such a number or None, else None."""
        kind = self.types[name]
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kinds = [one for one in typing.get_args(kind) if one is not types.NoneType]
            kind = kinds[0] if len(kinds) == 1 else None
        return kind if kind in (int, float) else None


def parse_recipe(stage: str, arguments: Sequence[str]) -> Recipe:
    """Reads the options of a run."""
    parser = RecipeParser(stage)
    path, overrides = split_config(arguments)
    config = read_recipe(path) if path else {}
    check_options(config, parser, path)
    unknown = parser.parse_known_args(overrides)[1]
    if unknown:
        raise ValueError(f"There is no option {unknown[0]}{parser.suggest(unknown[0].lstrip('-'))}")
    named = named_in(overrides, parser)
    data, modules, training, model = build_arguments(parser, path, [*paths_beside(path, config, named), *overrides])
    if not model.model_name_or_path:
        raise ValueError("No model is named: set model_name_or_path in the recipe or --model_name_or_path.")
    values = {name: value for part in (data, modules, training, model) for name, value in vars(part).items()}
    options = {**config, **{name: values[name] for name in named}}
    check_effective(stage, [name for name in options if name != "env"], values)
    base = EMBEDDED.get(model.model_name_or_path, model.model_name_or_path)
    return Recipe(stage, data, modules, training, model, base, path, options)


def paths_beside(path: Path | None, config: dict[str, Any], named: Sequence[str]) -> list[str]:
    """Returns the options that make a recipe's relative paths relative to its file; a shipped one has none."""
    if path is None or recipes.RECIPES in path.resolve().parents:
        return []
    words = []
    for name in PATHS:
        value = config.get(name)
        if not isinstance(value, str) or name in named or Path(value).expanduser().is_absolute():
            continue
        if name == "output_dir" or (path.parent / value).exists():
            words += [f"--{name}", str(path.parent / value)]
    return words


def build_arguments(parser: RecipeParser, path: Path | None, overrides: list[str]) -> tuple[Any, ...]:
    """Runs TRL's parser over file and command line."""
    given = [] if path is None else ["--config", str(path)]
    try:
        return parser.parse_args_and_config([*given, *overrides])
    except ValueError as error:
        if "bf16/gpu" in str(error):
            raise ValueError(
                "This machine has no accelerator that computes in bfloat16: add --use_cpu true to train on the CPU, "
                "or --bf16 false for float32."
            ) from None
        raise


def split_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Takes `--config NAME` or `--config=NAME` out of a command line."""
    rest = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if rest.count("--config") > 1:
        raise ValueError("--config is given twice; a run has one recipe.")
    if "--config" not in rest:
        return None, rest
    index = rest.index("--config")
    if index + 1 == len(rest):
        raise ValueError(f"--config needs a path or the name of a shipped recipe: {', '.join(recipes.names())}.")
    return recipes.find(rest[index + 1]), rest[:index] + rest[index + 2 :]


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe's YAML."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a YAML mapping of options, such as `learning_rate: 2.0e-5`.")
    return config


def check_options(config: dict[str, Any], parser: RecipeParser, path: Path | None) -> None:
    """Checks a recipe's names and numbers, which argparse takes as they are."""
    for name, value in config.items():
        if name == "env":  # TRL's parser sets these in the environment
            continue
        if name not in parser.options:
            raise ValueError(f"{path} has an unknown option {name}{parser.suggest(str(name))}")
        wanted = parser.number_type(name)
        if wanted and value is not None and not isinstance(value, str):
            whole = isinstance(value, int) or (wanted is float and isinstance(value, float))
            if isinstance(value, bool) or not whole:
                raise ValueError(f"{path}: {name} is {value!r}; it takes a number of type {wanted.__name__}.")


def named_in(overrides: Sequence[str], parser: RecipeParser) -> list[str]:
    """Returns the options that a command line names, `--no_name` among them."""
    words = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in overrides if word.startswith("--")]
    names = [word if word in parser.options else word.removeprefix("no_") for word in words]
    return [name for name in names if name in parser.options]


def resume_choice(value: Any) -> str:
    """Reads `resume_from_checkpoint`."""
    text = str(value).strip()
    if value is None or text.lower() in ("true", "auto", "last"):
        return LAST
    return FRESH if text.lower() in ("false", "no", "none") else text


def describe_options(options: dict[str, Any]) -> str:
    """Returns options as YAML, for a model card."""
    plain = json.loads(json.dumps(options, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).strip()
