"""What trains: which parts of the model get gradients, through LoRA or as they are, and how many parameters that is.

Without LoRA the resampler and the language model train and the vision tower is frozen, as published for every stage.
With LoRA the adapter sits in the layers of the language model, on request also in those of the vision tower, and
never at the head, whose weight TRL reads directly.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from trl import ModelConfig, get_peft_config, get_quantization_config

from xgenmm_hf.inference.quantisation import (
    DECODER_LAYERS,
    KEPT_WHOLE,
    RESAMPLER,
    TOWER,
    check_installed,
    keep_whole,
    linear_layers,
)
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
TOWER_LAYERS = r"model\.vision_tower\..*\.layers\.\d+\."


def resolve_modules(
    model: nn.Module,
    wanted: str | Iterable[str],
    option: str,
    kind: type[nn.Module] = nn.Module,
    within: str = "",
    only_one: bool = False,
) -> list[str]:
    """Returns the full names of the modules that an option names, in the order of the model."""
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    names = [name for name, module in model.named_modules() if isinstance(module, kind)]
    allowed = [name for name in names if re.match(within, name)]
    found: set[str] = set()
    for name in wanted:
        fitting = [full for full in allowed if full == name or full.endswith(f".{name}")]
        if not fitting or (only_one and len(fitting) > 1):
            number = f"{len(fitting)} modules" if fitting else "no module"
            choices = sorted({full.rpartition(".")[2] for full in allowed} if within else {*KEPT_WHOLE})
            raise ValueError(f"{option} names {name}, which fits {number} here; use {', '.join(choices)}.")
        found.update(fitting)
    if not found:
        raise ValueError(f"{option} names nothing; leave it out or name a module.")
    return [name for name in names if name in found]


def choose_trained(model: Any, modules: ModuleArguments) -> None:
    """Sets which parameters get gradients, without LoRA; a frozen vision tower also runs without autograd."""
    model.requires_grad_(not modules.freeze_language_model)
    switches = {TOWER: ("unfreeze_vision", True), RESAMPLER: ("freeze_resampler", False)}
    for part, (option, trains) in switches.items():
        for name in resolve_modules(model, part, option, only_one=True):
            model.get_submodule(name).requires_grad_(getattr(modules, option) == trains)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("Everything is frozen: leave out freeze_resampler or freeze_language_model.")


def lora_config(model: Any, model_args: ModelConfig, modules: ModuleArguments) -> Any:
    """Builds the adapter's config from TRL's options."""
    if not model_args.use_peft:
        return None
    config: Any = get_peft_config(model_args)
    config.target_modules = lora_targets(model, model_args.lora_target_modules, modules.lora_vision)
    asked = model_args.lora_modules_to_save
    saved = resolve_modules(model, asked, "lora_modules_to_save", only_one=True) if asked else []
    saved += [RESAMPLER] if modules.lora_resampler else []
    saved += [TOWER] if modules.unfreeze_vision else []
    config.modules_to_save = saved or None
    if modules.lora_added_tokens:
        config.trainable_token_indices = {"embed_tokens": sorted(model.config.added_tokens.values())}
    return config


def lora_targets(model: nn.Module, wanted: str | Sequence[str] | None = None, vision: bool = False) -> str:
    """Returns the pattern of the linear layers that LoRA adapts.

    Args:
        model: An `XGenMMForConditionalGeneration`.
        wanted: Last parts of names in the decoder's layers, such as `qkv_proj`; None or "all-linear" for every
            linear layer of them.
        vision: Whether the linear layers of the vision tower get an adapter too.

    Returns:
        A pattern for PEFT's full matches.

    Raises:
        ValueError: If a name fits no linear layer of the language model's layers.
    """
    if wanted is None or wanted in ("all-linear", ["all-linear"]):
        wanted = linear_layers(model, DECODER_LAYERS)
    chosen = resolve_modules(model, wanted, "lora_target_modules", nn.Linear, DECODER_LAYERS)
    if vision:
        chosen += linear_layers(model, TOWER_LAYERS)
    paths = sorted({re.sub(r"\.\d+\.", ".#.", name) for name in chosen})
    return rf"(?:.*\.)?(?:{'|'.join(re.escape(path) for path in paths)})".replace(r"\#", r"\d+")


def quantization_config(model_args: ModelConfig) -> Any:
    """Builds the config of a quantised language model; tower, resampler and head stay as they are."""
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    if not model_args.use_peft:
        raise ValueError("Quantised weights cannot train by themselves: add use_peft: true (QLoRA).")
    check_installed("QLoRA")
    return keep_whole(get_quantization_config(model_args))


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Counts all parameters and the trained ones by part."""
    counts = dict.fromkeys([*PARTS, OTHER], (0, 0))
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # the untrained twin of a module that PEFT saves whole
            continue
        part = next((part for part, mark in PARTS.items() if mark in name), OTHER)
        size = number_of_values(parameter)
        total, trained = counts[part]
        counts[part] = (total + size, trained + size * parameter.requires_grad)
    return {part: count for part, count in counts.items() if count[0]}


def number_of_values(parameter: torch.Tensor) -> int:
    """Returns how many values a parameter holds, also where it is partitioned (DeepSpeed) or packed (4-bit)."""
    quantised = getattr(parameter, "quant_state", None)
    return int(getattr(parameter, "ds_numel", None) or (quantised.shape if quantised else parameter.shape).numel())


def counts_table(counts: dict[str, tuple[int, int]]) -> str:
    """Formats the counts of parameters as a table."""
    totals = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    lines = [f"{'parameters of':<16}{'total':>16}{'trained':>16}{'share':>10}"]
    for part, (total, trained) in [*counts.items(), ("all", totals)]:
        lines.append(f"{part:<16}{total:>16,}{trained:>16,}{trained / total:>10.2%}")
    return "\n".join(lines)
