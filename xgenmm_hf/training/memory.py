"""How much memory training takes on each device, computed from a config: weights, gradients, optimizer, activations.

Parameters are counted on torch's meta device, so they are exact. Activations are what autograd keeps of each part,
tensor by tensor for the operations of a Phi-3 layer and of a resampler block; they are an estimate of the peak, to
which a fragmented allocator adds some per cent.

    python -m xgenmm_hf.training.memory
"""

from dataclasses import dataclass
from typing import Any

import torch

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration
from xgenmm_hf.training.modules import part_of


BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.5625}
# Bytes of optimizer state for each trained value: two moments in float32, or in eight bits, or none.
OPTIMIZERS = {"adamw": 8.0, "adamw_8bit": 2.0, "sgd": 0.0}
SHARDINGS = {
    "none": frozenset(),
    "zero2": frozenset({"gradients", "optimizer"}),
    "zero3": frozenset({"weights", "gradients", "optimizer"}),
    "fsdp2": frozenset({"weights", "gradients", "optimizer"}),
}
# What TRL's fused head keeps at a time: logits in float32 of this many positions, and their gradients.
HEAD_CHUNK = 256
PHI3_MEDIUM = {
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
}


@dataclass(frozen=True)
class Memory:
    """Memory of one device in bytes.

    Args:
        weights: Weights, with their copies in the dtype of computation where a shard is gathered.
        gradients: Gradients of what trains.
        optimizer: Optimizer states.
        activations: What the backward pass needs.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Workload:
    """What a device does in a step.

    Args:
        batch: Rows.
        sequence: Tokens of a row, those of its images too.
        tiles: Tiles of a row.
        gradient_checkpointing: Whether layers are computed again in the backward pass.
    """

    batch: int = 8
    sequence: int = 2688
    tiles: int = 5
    gradient_checkpointing: bool = True


def published_config(size: str) -> XGenMMConfig:
    """Returns the config of the 4B or the 14B model.

    Raises:
        ValueError: If the size is another.
    """
    if size not in ("4b", "14b"):
        raise ValueError(f"size is {size!r}; there are 4b and 14b.")
    return XGenMMConfig() if size == "4b" else XGenMMConfig(text_config=PHI3_MEDIUM)


def estimate_memory(
    config: XGenMMConfig,
    workload: Workload | None = None,
    *,
    unfreeze_vision: bool = False,
    lora_rank: int | None = None,
    lora_resampler: bool = False,
    dtype: str = "float32",
    compute_dtype: str = "bfloat16",
    quantised: str | None = None,
    optimizer: str = "adamw",
    num_gpus: int = 1,
    sharding: str = "none",
) -> Memory:
    """Estimates the memory that training takes on each device.

    Args:
        config: The model's config.
        workload: What a device does in a step; default: the published SFT's.
        unfreeze_vision: Whether the vision tower trains.
        lora_rank: Rank of adapters on every linear layer of the decoder; None: the weights themselves train.
        lora_resampler: With LoRA: whether the resampler trains.
        dtype: Dtype of the weights.
        compute_dtype: Dtype of autocast, that of most activations.
        quantised: "nf4" or "int8" for the decoder's linear layers (QLoRA).
        optimizer: "adamw", "adamw_8bit" or "sgd".
        num_gpus: Devices that share the work.
        sharding: "none", "zero2", "zero3" or "fsdp2".

    Returns:
        The parts of one device.

    Raises:
        ValueError: If an option is unknown.
    """
    for name, value, known in (
        ("dtype", dtype, BYTES),
        ("compute_dtype", compute_dtype, BYTES),
        ("quantised", quantised or dtype, BYTES),
        ("optimizer", optimizer, OPTIMIZERS),
        ("sharding", sharding, SHARDINGS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; use one of {', '.join(known)}.")
    work = workload or Workload()
    counts = count_values(config)
    trained, added = trained_values(counts, config, unfreeze_vision, lora_rank, lora_resampler)
    weights = stored_bytes(counts, dtype, quantised) + added * BYTES["float32"]
    # Adapters are kept in float32; what trains as it is has gradients in the dtype of its weights.
    whole = trained - added
    parts = {
        "weights": weights,
        "gradients": whole * BYTES[dtype] + added * BYTES["float32"],
        "optimizer": trained * OPTIMIZERS[optimizer],
    }
    for name in SHARDINGS[sharding]:
        parts[name] /= num_gpus
    if "weights" in SHARDINGS[sharding] and num_gpus > 1:
        # Two units are gathered at a time: the one that computes and the next.
        parts["weights"] += 2 * largest_unit(config) * BYTES[compute_dtype]
    elif BYTES[dtype] > BYTES[compute_dtype]:
        # Autocast keeps a copy of each linear layer's weights until the forward pass ends.
        parts["weights"] += (counts["linear"] + counts["resampler"]) * BYTES[compute_dtype]
    activations = activation_bytes(config, work, BYTES[compute_dtype], unfreeze_vision)
    return Memory(
        weights=int(parts["weights"]),
        gradients=int(parts["gradients"]),
        optimizer=int(parts["optimizer"]),
        activations=int(activations),
    )


def count_values(config: XGenMMConfig) -> dict[str, int]:
    """Counts parameters by part, and the decoder's linear layers' as "linear" besides, without making them."""
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(config)
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part == "language model" and parameter.ndim == 2:
            part = "linear"
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts["linear sides"] = sum(
        module.in_features + module.out_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "language_model.layers." in name
    )
    return counts


def trained_values(
    counts: dict[str, int], config: XGenMMConfig, unfreeze_vision: bool, lora_rank: int | None, lora_resampler: bool
) -> tuple[int, int]:
    """Returns how many values train, and how many of them are added by LoRA (adapters and the added tokens' rows)."""
    vision = counts["vision tower"] if unfreeze_vision else 0
    if lora_rank is None:
        rest = ("resampler", "embeddings", "linear", "language model", "head")
        return vision + sum(counts.get(part, 0) for part in rest), 0
    added = lora_rank * counts["linear sides"] + len(config.added_tokens) * config.text_config.hidden_size
    return vision + (counts["resampler"] if lora_resampler else 0) + added, added


def stored_bytes(counts: dict[str, int], dtype: str, quantised: str | None) -> float:
    """Returns the bytes of all weights; the decoder's linear layers may be quantised."""
    linear = counts["linear"] * BYTES[quantised or dtype]
    return (
        linear + sum(count for part, count in counts.items() if part not in ("linear", "linear sides")) * BYTES[dtype]
    )


def largest_unit(config: XGenMMConfig) -> int:
    """Returns the values of the largest unit that is gathered at once: a decoder layer, the embeddings or the head."""
    text = config.text_config
    return max(text.vocab_size * text.hidden_size, layer_values(text))


def layer_values(text: Any) -> int:
    """Returns the values of the linear layers of one decoder layer with a gated feed-forward part."""
    head_dim = text.hidden_size // text.num_attention_heads
    heads = text.num_attention_heads + 2 * text.num_key_value_heads
    attention = text.hidden_size * head_dim * (heads + text.num_attention_heads)
    return attention + 3 * text.hidden_size * text.intermediate_size


def activation_bytes(config: XGenMMConfig, work: Workload, width: float, unfreeze_vision: bool) -> float:
    """Estimates what the backward pass needs, at its peak.

    Args:
        config: The model's config.
        work: What a device does in a step.
        width: Bytes of an activation.
        unfreeze_vision: Whether the tower keeps its activations.

    Returns:
        Bytes.
    """
    tokens, tiles = work.batch * work.sequence, work.batch * work.tiles
    text, vision = config.text_config, config.vision_config
    patches = config.patches_per_side**2
    decoder = stacked(
        tokens * text.hidden_size * width,
        tokens * decoder_layer_values(text) * width,
        text.num_hidden_layers,
        work.gradient_checkpointing,
    )
    resampler_config = config.resampler_config
    latents = resampler_config.num_latents
    resampler = stacked(
        tiles * latents * resampler_config.hidden_size * width,
        tiles * resampler_layer_values(resampler_config, patches) * width,
        resampler_config.depth,
        work.gradient_checkpointing,
    )
    features = tiles * patches * vision.hidden_size * width
    tower_layer = tiles * patches * (7 * vision.hidden_size + 2 * vision.intermediate_size) * width
    tower = stacked(features, tower_layer, vision.num_hidden_layers, work.gradient_checkpointing)
    # A frozen tower needs one layer's working space, which is free again before the decoder's peak.
    seen = tower if unfreeze_vision else features
    head = min(tokens, HEAD_CHUNK) * text.vocab_size * 4 * 3
    during_decoder = seen + resampler + decoder + head
    return max(during_decoder, features + tower_layer)


def stacked(boundary: float, inside: float, layers: int, checkpointing: bool) -> float:
    """Returns what a stack of layers keeps: all of each, or the inputs of each and all of one."""
    return layers * boundary + inside if checkpointing else layers * inside


def decoder_layer_values(text: Any) -> int:
    """Returns how many values autograd keeps of one token in a decoder layer, with fused attention.

    Two norms (input, and its normalised form), query, key and value before and after rotation, attention's output, the
    gate and the value of the feed-forward part with their activation and product, and two residuals.
    """
    hidden = text.hidden_size
    keys = hidden // text.num_attention_heads * text.num_key_value_heads
    return 6 * hidden + 2 * (hidden + 2 * keys) + hidden + 4 * text.intermediate_size


def resampler_layer_values(config: Any, patches: int) -> int:
    """Returns how many values autograd keeps of one tile in a resampler block."""
    inner = config.num_heads * config.head_dim
    everything = patches + config.num_latents
    media = 2 * patches * config.hidden_size
    attention = everything * (config.hidden_size + 2 * inner) + 2 * config.num_latents * inner
    return media + attention + config.num_latents * (6 + 2 * config.ff_mult) * config.hidden_size


def memory_table() -> str:
    """Returns the table of docs/training.md: what the 4B and the 14B model take in gibibytes on each device."""
    small = Workload(batch=1)
    rows: dict[str, dict[str, Any]] = {
        "full, 8 devices, FSDP2 / ZeRO-3": {"num_gpus": 8, "sharding": "fsdp2"},
        "full, 8 devices, ZeRO-2": {"num_gpus": 8, "sharding": "zero2"},
        "full, 1 device": {"workload": small},
        "LoRA 64, 1 device": {"workload": small, "lora_rank": 64, "lora_resampler": True, "dtype": "bfloat16"},
        "QLoRA 64, 1 device": {"workload": small, "lora_rank": 64, "dtype": "bfloat16", "quantised": "nf4"},
    }
    lines = ["| | model | weights | gradients | optimizer | activations | total |", "|---|---|--:|--:|--:|--:|--:|"]
    for name, options in rows.items():
        for size in ("4b", "14b"):
            given = dict(options)
            workload = given.pop("workload", Workload(batch=8 if size == "4b" else 2))
            memory = estimate_memory(published_config(size), workload, **given)
            parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total)
            figures = " | ".join(f"{part / 2**30:.1f}" for part in parts)
            lines.append(f"| {name}, {workload.batch} rows | {size.upper()} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(memory_table() + "\n")
