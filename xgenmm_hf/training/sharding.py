"""What sharded training needs beyond accelerate: a head that all ranks train alike, and steps that all ranks share."""

from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn


def gather_head_before_use(model: Any) -> None:
    """Makes FSDP2 gather the head before TRL's fused loss reads its weight, and reduce its gradient after.

    The fused loss uses `lm_head.weight` without calling the head. FSDP2 gathers a module's weights, and averages their
    gradients over ranks, around calls; where only the weight is read each rank keeps its own rows' gradient.
    accelerate avoids this for text models by putting the head into one group with the final norm, which it finds only
    as a direct child of the base model. Seen with accelerate 1.15 and TRL 1.16: on two ranks the head's gradient was
    off by half of its norm.
    """
    base = model.get_base_model() if is_peft_model(model) else model

    def gather(module: nn.Module, args: Any, output: Any) -> None:
        head = base.get_output_embeddings()
        if is_sharded_module(head):
            head.unshard()

    base.model.register_forward_hook(gather)


def is_sharded_module(module: nn.Module) -> bool:
    """Tells whether FSDP2 shards a module by itself."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def add_blank_image(inputs: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Adds a row with one blank tile and no target to a batch without images.

    Where ranks hold pieces of the parameters, each must run the tower and the resampler as often as the others, or
    they wait for one another for ever.
    """
    length = max(inputs["input_ids"].shape[1], config.resampler_config.num_latents + 1)
    pad = config.text_config.pad_token_id or 0
    blank = torch.full((1, length), pad, dtype=inputs["input_ids"].dtype)
    blank[:, : config.resampler_config.num_latents] = config.image_token_id
    rows = {
        "input_ids": (pad, blank),
        "attention_mask": (0, torch.ones_like(blank)),
        "labels": (-100, torch.full_like(blank, -100)),
    }
    side = config.tile_size
    batch = {
        name: torch.cat([pad_right(inputs[name], length, filler), row.to(inputs[name])])
        for name, (filler, row) in rows.items()
    }
    return {
        **inputs,
        **batch,
        # Without a size it is one tile in every mode.
        "pixel_values": torch.zeros(1, config.vision_config.num_channels, side, side),
        "image_num_tiles": torch.tensor([1]),
    }


def pad_right(rows: torch.Tensor, length: int, filler: int) -> torch.Tensor:
    """Pads rows on the right to a length."""
    return torch.nn.functional.pad(rows, (0, length - rows.shape[1]), value=filler)
