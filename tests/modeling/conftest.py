"""Tiny random models of every kind."""

import pytest
import torch

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration


VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
RESAMPLER = {"num_latents": 4, "depth": 2, "num_heads": 2, "head_dim": 8}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "original_max_position_embeddings": 512,
    "vocab_size": 103,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture
def make_config():
    """Returns a function that builds a tiny config; sub-config dicts are merged over the defaults."""

    def make(vision: dict | None = None, text: dict | None = None, **fields) -> XGenMMConfig:
        return XGenMMConfig(
            vision_config={**VISION, **(vision or {})},
            resampler_config=RESAMPLER,
            text_config={**TEXT, **(text or {})},
            **{
                "image_token_id": 100,
                "image_placeholder_token_id": 101,
                "end_of_chunk_token_id": 102,
                "anyres_grids": [[16, 32], [32, 16], [32, 32]],
                **fields,
            },
        )

    return make


@pytest.fixture
def make_model(make_config):
    """Returns a function that builds a tiny random model."""

    def make(attn_implementation: str = "sdpa", **fields) -> XGenMMForConditionalGeneration:
        torch.manual_seed(0)
        config = make_config(**fields)
        return XGenMMForConditionalGeneration._from_config(config, attn_implementation=attn_implementation).eval()

    return make


@pytest.fixture
def images():
    """Returns two images of five and three tiles and their sizes as (height, width)."""
    torch.manual_seed(1)
    return {
        "pixel_values": torch.rand(8, 3, 16, 16) * 2 - 1,
        "image_sizes": torch.tensor([(20, 21), (30, 14)]),
        "image_num_tiles": torch.tensor([5, 3]),
    }


@pytest.fixture
def prompt(images):
    """Returns one prompt with both images, 32 image tokens."""
    input_ids = torch.cat([torch.arange(5, 9), torch.full((32,), 100), torch.arange(9, 14)])[None]
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **images}
