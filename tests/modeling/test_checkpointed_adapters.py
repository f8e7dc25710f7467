"""Adapters before the text embeddings get gradients, with either kind of gradient checkpointing."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration


TOWER = r".*vision_tower.*(q_proj|k_proj|v_proj|out_proj)"
RESAMPLER = r".*resampler\.layers.*(q_proj|kv_proj|fc1|fc2)"


def gradients(targets: str, **checkpointing: bool) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(0)
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
    config = model.config
    ids = torch.tensor([[5, *[config.image_token_id] * config.resampler_config.num_latents, 6, 7, 8]])
    tiles = torch.linspace(-1, 1, 3 * config.tile_size**2).view(1, 3, config.tile_size, config.tile_size)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
        model.enable_input_require_grads()
    model(input_ids=ids, labels=ids, pixel_values=tiles).loss.backward()
    assert not tiles.requires_grad
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("targets", [TOWER, RESAMPLER, "all-linear"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradients_are_those_without_checkpointing(targets, use_reentrant):
    expected, found = gradients(targets), gradients(targets, use_reentrant=use_reentrant)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None, name
        assert found[name] is not None, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
