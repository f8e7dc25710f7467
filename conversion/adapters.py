"""LoRA adapters for vLLM: those of Phi-3's fused projections become adapters of the separate ones, with the same sums.

vLLM runs the language model with query, key, value, gate and up projections apart (see `modeling/language_xgenmm.py`)
and takes adapters under those names. A fused matrix's update is B @ A; each part's is its rows of B, times the same A.

Shapes: A is (rank, inputs), B is (outputs, rank).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from xgenmm_hf.conversion.files import output_folder, read_json, write_json


if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MERGE_IT = "merge it into its base model (PEFT's merge_and_unload, or xgenmm train with --merge_adapter true)"
PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def export_adapter(source: str | Path, out: str | Path) -> list[str]:
    """Writes a PEFT LoRA adapter in the form that vLLM loads."""
    from safetensors.torch import load_file, save_file

    config = read_json(Path(source) / ADAPTER_CONFIG)
    check_adapter(source, config)
    weights = Path(source) / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ValueError(f"{source} has no {ADAPTER_WEIGHTS}; save the adapter with safe_serialization=True.")
    tensors = load_file(weights)
    outside = sorted({name.rpartition(".lora_")[0] for name in tensors if ".language_model." not in name})
    if outside:
        raise ValueError(
            f"{source} adapts {outside[0]}, and vLLM applies adapters to the language model only; {MERGE_IT}."
        )
    split = dict(
        item
        for name, tensor in tensors.items()
        for item in split_fused(name, tensor, tensors.get(name.replace(".lora_B.", ".lora_A."), tensor).shape[1])
    )
    modules = sorted({name.rpartition(".lora_")[0].rpartition(".")[2] for name in split})
    with output_folder(out) as folder:
        save_file(split, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        write_json(folder / ADAPTER_CONFIG, {**config, "target_modules": modules})
    return modules


def check_adapter(source: str | Path, config: dict) -> None:
    """Checks that vLLM can express what an adapter's config says."""
    kind = str(config.get("peft_type")).rpartition(".")[2]
    if kind != "LORA":
        raise ValueError(f"{source} is an adapter of type {kind}; vLLM loads LoRA adapters only.")
    for field in ("use_dora", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern"):
        if config.get(field):
            raise ValueError(f"{source} has {field} {config[field]!r}, which vLLM cannot load; {MERGE_IT}.")


def split_fused(name: str, tensor: "torch.Tensor", hidden_size: int) -> list[tuple[str, "torch.Tensor"]]:
    """Splits an adapter's tensor of a fused projection."""
    for fused, parts in PARTS.items():
        if f".{fused}." not in name:
            continue
        pieces = [tensor] * len(parts)
        if ".lora_B." in name:
            first = hidden_size if fused == "qkv_proj" else tensor.shape[0] // 2
            other = (tensor.shape[0] - first) // (len(parts) - 1)
            pieces = list(tensor.split([first] + [other] * (len(parts) - 1)))
        return [(name.replace(fused, part), piece.clone()) for part, piece in zip(parts, pieces, strict=True)]
    return [(name, tensor)]
