"""The prompt as queries of the resampler, used by the first release (r-v1).

Shapes: B prompts of L tokens, at most one image each; num_images prompts have one. T text queries are chosen per
image.
"""

from typing import NamedTuple

import torch
from torch import nn

from .chunking_xgenmm import Condition
from .configuration_xgenmm import XGenMMConfig
from .targets_xgenmm import IGNORE_INDEX


NO_PROMPT_END = (
    "This checkpoint reads an image together with its prompt, so in training it must know where the prompt ends and "
    "the answer begins: pass labels or prompt_mask, or train with XGenMMSFTTrainer or XGenMMDPOTrainer, which do."
)


class TextQueries(NamedTuple):
    """The text queries of each image."""

    embeds: torch.Tensor  # (num_images, T, text width)
    visible: torch.Tensor  # False on padding, (num_images, T)
    image: torch.Tensor | None = None  # which image each chunk belongs to, (num_chunks,); None: each is an image


def select_text(
    config: XGenMMConfig, embeds: torch.Tensor, image_mask: torch.Tensor, prompt_mask: torch.Tensor, num_images: int
) -> TextQueries:
    """Chooses the text queries of every image: the first tokens of its prompt, of which the image counts as one.

    `embeds` are the prompts' before the images are put in, (B, L, text width); `image_mask` is True at image tokens
    and `prompt_mask` at tokens that may be queries, (B, L). Padding is left out. (The original used it too, so a row's
    answer depended on its batch.)
    """
    kept = prompt_mask.to(embeds.device).bool() & ~follows_image(image_mask)
    rows = torch.argsort((~image_mask.any(1)).int(), stable=True)[:num_images]
    kept, embeds = kept[rows], embeds[rows]
    longest = kept.shape[1] if torch.compiler.is_compiling() else int(kept.sum(1).max())
    limit = min(config.resampler_config.num_text_queries, longest)
    order = torch.argsort((~kept).int(), dim=1, stable=True)[:, :limit]
    return TextQueries(embeds.gather(1, order.unsqueeze(-1).expand(-1, -1, embeds.shape[-1])), kept.gather(1, order))


def follows_image(image_mask: torch.Tensor) -> torch.Tensor:
    """Finds the tokens of each image after its first, (B, L)."""
    return image_mask & nn.functional.pad(image_mask[:, :-1], (1, 0))


def one_image_per_prompt(image_mask: torch.Tensor, num_images: int) -> Condition:
    """Returns the condition that no prompt has more than one image, and that `num_images` prompts have one."""
    starts = (image_mask & ~follows_image(image_mask)).sum(1)
    return Condition(
        (starts <= 1).all() & (starts.sum() == num_images),
        "The prompts hold {starts} images for {num_images} given; this checkpoint reads one image per prompt, "
        "together with the prompt's text: pass one prompt per image.",
        {"starts": starts, "num_images": num_images},
    )


def prompt_mask_of(
    attention_mask: torch.Tensor | None, image_mask: torch.Tensor, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """Finds the tokens that may be text queries, (B, L): the real ones of `attention_mask` (B, L), or all.

    Tokens from a row's first target in `labels` (B, L) on belong to the answer, which images must not see.
    """
    if attention_mask is None:
        mask = torch.ones_like(image_mask)
    elif attention_mask.dim() == 2:
        mask = attention_mask[:, -image_mask.shape[1] :].to(image_mask.device).bool()
    else:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}; this checkpoint reads the prompt with its "
            "image and needs (batch, tokens)."
        )
    if labels is None:
        return mask
    targets = (labels.to(image_mask.device) != IGNORE_INDEX) & ~image_mask
    return mask & (image_mask | (targets.cumsum(1) == 0))
