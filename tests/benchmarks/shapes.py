"""Models of real shapes with random weights, and the images and prompts that they are measured on."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from xgenmm_hf import TINY_MODEL, XGenMMConfig, XGenMMForConditionalGeneration, XGenMMImageProcessor, XGenMMProcessor


PRESETS = ("tiny", "4b-slice", "4b", "14b")
TILES = 5  # the overview and a grid of 2 x 2
TEXT_TOKENS = 64
PHI3_MEDIUM = {
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
}


def preset_config(preset: str) -> XGenMMConfig:
    """Returns the config of a preset; `4b-slice` has 4B's widths and two layers per part."""
    tiny = XGenMMConfig.from_pretrained(TINY_MODEL)
    if preset == "tiny":
        return tiny
    # The embedded model's tokenizer serves all shapes, so the special ids are its own.
    text = {f"{name}_token_id": getattr(tiny.text_config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    parts: dict[str, Any] = {}
    if preset == "14b":
        text |= PHI3_MEDIUM
    if preset == "4b-slice":
        text["num_hidden_layers"] = 2
        parts = {"vision_config": {"num_hidden_layers": 2}, "resampler_config": {"depth": 2}}
    ids = ("image_token_id", "image_placeholder_token_id", "end_of_chunk_token_id")
    return XGenMMConfig(text_config=text, **parts, **{name: getattr(tiny, name) for name in ids})


def build_model(config: XGenMMConfig, device: torch.device, dtype: torch.dtype) -> XGenMMForConditionalGeneration:
    """Builds a model with random weights (zeros would compute faster) that never stops by itself."""
    torch.manual_seed(0)
    with torch.device(device):
        model = XGenMMForConditionalGeneration._from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    return model.eval()


def build_processor(config: XGenMMConfig) -> XGenMMProcessor:
    """Builds a processor: the embedded model's tokenizer, tiles and tokens of the config."""
    tiles = XGenMMImageProcessor(
        image_aspect_ratio=config.image_aspect_ratio, size=config.tile_size, anyres_grids=config.anyres_grids
    )
    tokenizer = XGenMMProcessor.from_pretrained(TINY_MODEL).tokenizer
    return XGenMMProcessor(tiles, tokenizer, num_latents=config.resampler_config.num_latents)


def make_images(config: XGenMMConfig, count: int) -> list[Image.Image]:
    """Makes smooth random images of 1024 x 768 pixels (for tiles of 384) that become `TILES` tiles each."""
    width, height = 1024 * config.tile_size // 384, 768 * config.tile_size // 384
    coarse = np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC) for pixels in coarse]


def make_prompt(config: XGenMMConfig, rows: int, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Makes model inputs: one image of `TILES` tiles per row, then random text ids below the added ones."""
    image = make_images(config, 1)[0]
    tokens = TILES * config.resampler_config.num_latents
    text = torch.randint(5, config.image_token_id - 3, (rows, TEXT_TOKENS), device=device)
    pixels = torch.rand((rows * TILES, 3, config.tile_size, config.tile_size), device=device)
    return {
        "input_ids": torch.cat([torch.full((rows, tokens), config.image_token_id, device=device), text], dim=1),
        "pixel_values": (2 * pixels - 1).to(dtype),
        "image_sizes": torch.tensor([(image.height, image.width)] * rows, device=device),
        "image_num_tiles": torch.full((rows,), TILES, device=device),
    }
