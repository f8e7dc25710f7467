"""The formulas against torch's own counter, and against the weights that a model has."""

import pytest
import torch
from bench import counts
from bench.shapes import preset_config
from torch.utils.flop_counter import FlopCounterMode

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration


VISION = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
RESAMPLER = {"num_latents": 6, "depth": 3, "num_heads": 2, "head_dim": 24}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 103,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 256,
    "sliding_window": None,
    "pad_token_id": 0,
}
TILES, ROWS, LENGTH, FLOAT = 3, 2, 23, 4


def make_model(model_type: str = "siglip_vision_model") -> XGenMMForConditionalGeneration:
    config = XGenMMConfig(
        vision_config={**VISION, "model_type": model_type},
        resampler_config=RESAMPLER,
        text_config=TEXT,
        image_token_id=100,
        image_placeholder_token_id=101,
        end_of_chunk_token_id=102,
    )
    # the counter sees the products of eager attention; fused kernels of the CPU it does not know
    return XGenMMForConditionalGeneration._from_config(config, attn_implementation="eager").eval()


def flops_of(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def counted(function) -> int:
    with torch.no_grad():
        return flops_of(function)


@pytest.mark.parametrize("model_type", ["siglip_vision_model", "clip_vision_model"])
def test_tower(model_type):
    model = make_model(model_type)
    tiles = torch.rand(TILES, 3, 32, 32)
    expected = counts.tower_work(model.config.vision_config, TILES, FLOAT).flops
    measured = counted(lambda: model.get_vision_features(tiles))
    # the class token of CLIP passes all layers but not the patch embedding
    class_token = 0 if model_type.startswith("siglip") else TILES * 2 * 3 * 8 * 8 * 32
    assert measured == expected - class_token


def test_resampler():
    model = make_model()
    model.requires_grad_(False)  # the counter's hooks stumble over a parameter that is a layer's input
    features = torch.rand(TILES, 16, 32)
    assert counted(lambda: model.model.resampler(features)) == counts.resampler_work(model.config, TILES, FLOAT).flops


@pytest.mark.parametrize("kept", [None, 1])
def test_decoder(kept):
    model = make_model()
    ids = torch.randint(3, 90, (ROWS, LENGTH))
    expected = counts.decoder_work(model.config.text_config, ROWS, LENGTH, FLOAT, kept=kept, causal=False).flops
    measured = counted(lambda: model(input_ids=ids, logits_to_keep=kept or 0, use_cache=True))
    rotary = ROWS * LENGTH * TEXT["hidden_size"] // TEXT["num_attention_heads"]  # a product of positions, once
    assert expected <= measured <= expected + rotary


def test_decode_step():
    model = make_model()
    ids = torch.randint(3, 90, (ROWS, LENGTH))
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    work = counts.decoder_work(model.config.text_config, ROWS, 1, FLOAT, past=LENGTH)
    measured = counted(lambda: model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True))
    assert work.flops <= measured <= work.flops + ROWS * TEXT["hidden_size"]


def test_a_causal_query_needs_about_half_of_the_keys():
    text = make_model().config.text_config
    full, causal = (counts.decoder_work(text, 1, 200, FLOAT, causal=flag).flops for flag in (False, True))
    attention = 3 * 200 * 4 * 200 * 64
    assert full - causal == pytest.approx(attention * 199 / 400)


def test_training_step():
    """Forward and backward of what trains, forward alone of the frozen tower."""
    model = make_model().train()
    model.vision_tower.requires_grad_(False)
    ids = torch.cat([torch.full((1, 6), 100), torch.randint(3, 90, (1, LENGTH))], dim=1)
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 32, 32)}

    def step() -> None:
        model(**inputs, labels=ids).loss.backward()

    measured = flops_of(step)
    expected = counts.sft_work(model.config, 1, 1, ids.shape[1], ids.shape[1], FLOAT).flops
    # the formula leaves out unneeded keys; the counter the gradient of what is no parameter's input
    assert measured == pytest.approx(expected, rel=0.06)


def test_bytes_hold_all_matrix_weights():
    model = make_model()
    work = counts.decoder_work(model.config.text_config, 1, 1, FLOAT)
    layers = model.model.language_model.layers
    weights = sum(weight.nbytes for weight in layers.parameters() if weight.dim() > 1) + model.lm_head.weight.nbytes
    assert weights < work.bytes < weights * 1.05
    tower = counts.tower_weights(model.config.vision_config)
    vision = model.vision_tower.vision_model
    assert tower == sum(
        weight.numel() for name, weight in vision.named_parameters() if weight.dim() > 1 and "position" not in name
    )


def test_full_size_figures():
    """The 4B model: what the report's sizes come to."""
    config = preset_config("4b")
    tile = counts.tower_work(config.vision_config, 1, 2)
    assert 650e9 < tile.flops < 680e9
    step = counts.decoder_work(config.text_config, 1, 1, 2, past=700)
    assert 7.2e9 < step.bytes < 8.2e9
    assert counts.dpo_work(config, 5, 2, 700, 40, 2).flops < counts.sft_work(config, 5, 2, 700, 80, 2).flops * 1.2
