"""Presets: models of real shapes with random weights, and the images and prompts that they are measured on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.timing import Effort
from xgenmm_hf import (
    TINY_MODEL,
    XGenMMConfig,
    XGenMMForConditionalGeneration,
    XGenMMImageProcessor,
    XGenMMProcessor,
)


# Widths of the 4B model with so few layers that a step takes seconds on two cores.
SLICE = {"vision_config": 2, "resampler_config": 2, "text_config": 2}
PRESETS = ("tiny", "4b-slice", "4b", "14b")
# (height, width) of an image that the grid of 2 x 2 tiles fits: the overview and four tiles.
IMAGE_SIZE = (768, 1024)
TILES = 5


@dataclass(frozen=True)
class Setting:
    """What is measured, where and how.

    Args:
        preset: Name of the shape.
        device: The device.
        dtype: Dtype of weights and computation.
        effort: How often each figure is measured.
        compiled: Whether decoding is also measured as a compiled step with a static cache.
        decode_batches: Rows of the decode steps.
        text_tokens: Text tokens of a prompt.
        images: Images of the image processing rows.
        questions: Questions on one image, for the vision-feature cache.
    """

    preset: str
    device: torch.device
    dtype: torch.dtype
    effort: Effort
    compiled: bool = False
    decode_batches: tuple[int, ...] = (1, 8, 32)
    text_tokens: int = 64
    images: int = 16
    questions: int = 4

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize


def preset_config(preset: str) -> XGenMMConfig:
    """Returns a preset's config, with the token ids of the embedded tokenizer, which real-shaped models share here.

    Args:
        preset: `tiny` (the embedded model), `4b-slice` (its widths, two layers a part), `4b` or `14b`.

    Returns:
        The config.

    Raises:
        ValueError: If there is no such preset.
    """
    tiny = XGenMMConfig.from_pretrained(TINY_MODEL)
    if preset == "tiny":
        return tiny
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; there are {', '.join(PRESETS)}.")
    wide: dict[str, Any] = {}
    if preset == "14b":
        from xgenmm_hf.training.memory import PHI3_MEDIUM as wide  # needs the train extra
    layers = SLICE if preset == "4b-slice" else {}
    ids = {name: getattr(tiny.text_config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return XGenMMConfig(
        vision_config={"num_hidden_layers": layers["vision_config"]} if layers else None,
        resampler_config={"depth": layers["resampler_config"]} if layers else None,
        text_config={
            **wide,
            **({"num_hidden_layers": layers["text_config"]} if layers else {}),
            **{f"{name}_token_id": value for name, value in ids.items()},
        },
        image_token_id=tiny.image_token_id,
        image_placeholder_token_id=tiny.image_placeholder_token_id,
        end_of_chunk_token_id=tiny.end_of_chunk_token_id,
    )


def build_model(config: XGenMMConfig, device: torch.device, dtype: torch.dtype) -> XGenMMForConditionalGeneration:
    """Builds a model with random weights on its device; none is zero but for biases, as zeros compute faster.

    Args:
        config: The model's config.
        device: The device.
        dtype: Dtype of the weights.

    Returns:
        The model in evaluation mode.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = XGenMMForConditionalGeneration._from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = None  # random weights would stop at random
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    return model.eval()


def build_processor(config: XGenMMConfig) -> XGenMMProcessor:
    """Builds the processor of a preset: the embedded tokenizer, tiles and tokens of the config."""
    cutter = XGenMMImageProcessor(
        image_aspect_ratio=config.image_aspect_ratio, size=config.tile_size, anyres_grids=config.anyres_grids
    )
    tokenizer = XGenMMProcessor.from_pretrained(TINY_MODEL).tokenizer
    latents, by_tile = config.resampler_config.num_latents, config.anyres_patch_sampling
    return XGenMMProcessor(cutter, tokenizer, num_latents=latents, anyres_patch_sampling=by_tile)


def image_size(config: XGenMMConfig) -> tuple[int, int]:
    """Returns the size (height, width) of the measured image: four grid tiles beside the overview."""
    return (IMAGE_SIZE[0] * config.tile_size // 384, IMAGE_SIZE[1] * config.tile_size // 384)


def make_images(count: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Makes smooth random images.

    Args:
        count: How many.
        size: (height, width) in pixels.
        seed: Seed of the first one.

    Returns:
        RGB images.
    """
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC) for pixels in coarse]


def make_tiles(config: XGenMMConfig, images: int, setting: Setting) -> dict[str, torch.Tensor]:
    """Makes the model's image inputs, as of images of five tiles each.

    Args:
        config: The model's config.
        images: Number of images.
        setting: Device and dtype.

    Returns:
        `pixel_values`, `image_sizes` and `image_num_tiles`.
    """
    side = config.tile_size
    shape = (images * TILES, 3, side, side)
    values = torch.rand(shape, device=setting.device).mul_(2).sub_(1).to(setting.dtype)
    sizes = torch.tensor([image_size(config)] * images, device=setting.device)
    return {
        "pixel_values": values,
        "image_sizes": sizes,
        "image_num_tiles": torch.full((images,), TILES, device=setting.device),
    }


def make_prompts(config: XGenMMConfig, rows: int, image_tokens: int, text_tokens: int, device: Any) -> torch.Tensor:
    """Makes prompts: images' tokens, then random text ids below the added ones.

    Args:
        config: The model's config.
        rows: Number of prompts.
        image_tokens: Image tokens a prompt.
        text_tokens: Text tokens a prompt.
        device: Where the ids go.

    Returns:
        Ids, (rows, image_tokens + text_tokens).
    """
    text = torch.randint(5, min(config.added_tokens.values()), (rows, text_tokens), device=device)
    images = torch.full((rows, image_tokens), config.image_token_id, device=device)
    return torch.cat([images, text], dim=1)
