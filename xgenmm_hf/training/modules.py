"""What trains: which parts of the model get gradients, through LoRA or as they are, and how many parameters that is.

Without LoRA the resampler and the language model train and the vision tower is frozen, as published for every stage.
With LoRA the adapter sits in the layers of the language model alone: never in the tower or the resampler, and never at
the head, whose weight TRL reads directly.
"""

import importlib.util
import re
from collections.abc import Iterable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from trl import ModelConfig, get_peft_config, get_quantization_config

from xgenmm_hf.training.arguments import ModuleArguments


# Parts in the order of the data; the first whose name occurs in a parameter's name owns it.
PARTS = {
    "vision tower": "vision_tower.",
    "resampler": "resampler.",
    "embeddings": "embed_tokens.",
    "LoRA": ".lora_",
    "language model": "language_model.",
    "head": "lm_head.",
}
OTHER = "other"
KEPT_WHOLE = ("vision_tower", "resampler", "lm_head")


def choose_trained(model: Any, modules: ModuleArguments) -> None:
    """Sets which parameters get gradients, without LoRA.

    A frozen vision tower also runs without autograd, see `XGenMMModel`.

    Args:
        model: An `XGenMMForConditionalGeneration`; changed in place.
        modules: What trains.

    Raises:
        ValueError: If nothing is left to train.
    """
    model.requires_grad_(not modules.freeze_language_model)
    model.model.vision_tower.requires_grad_(modules.unfreeze_vision)
    model.model.resampler.requires_grad_(not modules.freeze_resampler)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("Everything is frozen: leave out freeze_resampler or freeze_language_model.")


def lora_config(model: Any, model_args: ModelConfig, modules: ModuleArguments) -> Any:
    """Builds the adapter's config from TRL's options.

    Args:
        model: An `XGenMMForConditionalGeneration`.
        model_args: TRL's model options (`use_peft`, `lora_r`, ...). `lora_target_modules` names linear layers of the
            decoder's layers, such as `qkv_proj`; default: all of them.
        modules: What trains besides.

    Returns:
        A PEFT config, or None without `use_peft`.

    Raises:
        ValueError: If PEFT is missing, or the names fit no layer of the language model.
    """
    if not model_args.use_peft:
        return None
    if importlib.util.find_spec("peft") is None:
        raise ValueError("LoRA needs PEFT: pip install xgenmm-hf[train].")
    config: Any = get_peft_config(model_args)
    config.target_modules = lora_targets(model, model_args.lora_target_modules)
    saved = list(model_args.lora_modules_to_save or [])
    if modules.lora_resampler:
        saved.append("resampler")
    if modules.unfreeze_vision:
        saved.append("vision_tower")
    config.modules_to_save = saved or None
    if modules.lora_added_tokens:
        config.trainable_token_indices = {"embed_tokens": sorted(model.config.added_tokens.values())}
    return config


def lora_targets(model: nn.Module, wanted: str | Iterable[str] | None = None) -> str:
    """Returns the pattern of the linear layers that LoRA adapts, all of them in the language model's layers.

    Args:
        model: An `XGenMMForConditionalGeneration`.
        wanted: Last parts of names, such as `qkv_proj`; None or "all-linear" for every linear layer.

    Returns:
        A pattern for PEFT's full matches.

    Raises:
        ValueError: If a name fits no linear layer of the language model.
    """
    layers = re.compile(r"(?:.*\.)?language_model\.layers\.\d+\.(.+)")
    matches = (layers.fullmatch(name) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    paths = sorted({match[1] for match in matches if match})
    names = sorted({path.rpartition(".")[2] for path in paths})
    chosen = names if wanted in (None, "all-linear") else [wanted] if isinstance(wanted, str) else list(wanted or [])
    unknown = sorted(set(chosen) - set(names))
    if unknown or not chosen:
        raise ValueError(
            f"lora_target_modules names {', '.join(unknown) or 'nothing'}; linear layers of the language model are "
            f"{', '.join(names)} (the vision tower, the resampler and the head take no adapter)."
        )
    kept = [re.escape(path) for path in paths if path.rpartition(".")[2] in chosen]
    return rf"(?:.*\.)?language_model\.layers\.\d+\.(?:{'|'.join(kept)})"


def quantization_config(model_args: ModelConfig) -> Any:
    """Builds the config of a quantised language model; tower, resampler and head stay as they are.

    Args:
        model_args: TRL's model options (`load_in_4bit`, `load_in_8bit`, ...).

    Returns:
        A bitsandbytes config, or None.

    Raises:
        ValueError: If bitsandbytes is missing, or quantised weights were to train without LoRA.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    if not model_args.use_peft:
        raise ValueError("Quantised weights cannot train by themselves: add use_peft: true (QLoRA).")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("QLoRA needs bitsandbytes: pip install bitsandbytes, on a machine with a GPU.")
    config: Any = get_quantization_config(model_args)
    config.llm_int8_skip_modules = list(KEPT_WHOLE)
    return config


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Counts parameters by part.

    Args:
        model: The model, plain, sharded or with an adapter.

    Returns:
        Total and trained parameters of each part that has any, in the order of the data.
    """
    counts = dict.fromkeys([*PARTS, OTHER], (0, 0))
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # the untrained twin of a module that PEFT saves whole
            continue
        part = part_of(name)
        size = number_of_values(parameter)
        total, trained = counts[part]
        counts[part] = (total + size, trained + (size if parameter.requires_grad else 0))
    return {part: count for part, count in counts.items() if count[0]}


def part_of(name: str) -> str:
    """Returns the part that a parameter of this name belongs to."""
    return next((part for part, mark in PARTS.items() if mark in name), OTHER)


def number_of_values(parameter: torch.Tensor) -> int:
    """Returns how many values a parameter holds, also where it is partitioned (DeepSpeed) or packed (4-bit)."""
    partitioned = getattr(parameter, "ds_numel", None)
    if partitioned is not None:
        return int(partitioned)
    quantised = getattr(parameter, "quant_state", None)
    return int(quantised.shape.numel()) if quantised is not None else parameter.numel()


def counts_table(counts: dict[str, tuple[int, int]]) -> str:
    """Lays counts out as a table.

    Args:
        counts: What `count_parameters` returned.

    Returns:
        The lines.
    """
    table = Table("part", title="Parameters", title_justify="left")
    for column in ("total", "trained", "share"):
        table.add_column(column, justify="right")
    totals = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    for part, (total, trained) in [*counts.items(), ("all", totals)]:
        table.add_row(
            part, f"{total:,}", f"{trained:,}", f"{trained / total:.2%}", end_section=part == list(counts)[-1]
        )
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
