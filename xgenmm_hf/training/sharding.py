"""What sharded training needs beyond accelerate: a head that all ranks train alike, and steps that all ranks share."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from torch.distributed.fsdp import FSDPModule


def gather_head_before_use(model: Any) -> None:
    """Makes FSDP2 gather the head before TRL's fused loss reads its weight, and reduce its gradient after.

    FSDP2 gathers a module's weights, and averages their gradients over ranks, around calls; the loss reads the head's
    weight without a call. accelerate groups the head with the final norm, but finds the norm only as a direct child of
    the base model. With accelerate 1.15 and TRL 1.16 on two ranks the head's gradient was off by half of its norm.
    """
    base = model.get_base_model() if is_peft_model(model) else model

    def gather(module: nn.Module, args: Any, output: Any) -> None:
        head = base.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

    base.model.register_forward_hook(gather)


def add_blank_image(batch: Mapping[str, Any], config: Any, halves: int = 1) -> dict[str, Any]:
    """Adds a blank tile after the first row (of each half) of a batch without images, where it changes no loss.

    With sharded parameters all ranks must run the tower and the resampler equally often, or they deadlock.
    """
    ids, side = batch["input_ids"], config.tile_size
    shown = torch.zeros((len(ids), config.resampler_config.num_latents), dtype=torch.long, device=ids.device)
    shown[:: len(ids) // halves] = 1
    added = {
        "input_ids": torch.where(shown.bool(), config.image_token_id, config.text_config.pad_token_id or 0),
        "attention_mask": shown,
        "labels": torch.full_like(shown, -100),
        "completion_mask": torch.zeros_like(shown),
    }
    return {
        **batch,
        **{name: torch.cat([batch[name], columns], dim=1) for name, columns in added.items() if name in batch},
        # Without a size an image is one tile in every mode.
        "pixel_values": torch.zeros(1, config.vision_config.num_channels, side, side, device=ids.device),
        "image_num_tiles": torch.ones(1, dtype=torch.long, device=ids.device),
        **({"image_repeats": halves} if halves > 1 else {}),
    }
