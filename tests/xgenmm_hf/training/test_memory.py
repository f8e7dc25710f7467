"""The estimate against counted parameters and measured tensors."""

import pytest
import torch
from peft import get_peft_model
from trl import ModelConfig

from xgenmm_hf import TINY_MODEL, XGenMMConfig, XGenMMForConditionalGeneration
from xgenmm_hf.training.arguments import ModuleArguments
from xgenmm_hf.training.memory import Workload, activation_bytes, estimate_memory, memory_table, published_config
from xgenmm_hf.training.modules import choose_trained, lora_config


@pytest.fixture
def config():
    return XGenMMConfig.from_pretrained(TINY_MODEL)


def bytes_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_weights_gradients_and_optimizer_are_those_of_a_step(config):
    model = XGenMMForConditionalGeneration(config).float()
    choose_trained(model, ModuleArguments())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    memory = estimate_memory(config, compute_dtype="float32")
    assert memory.weights == bytes_of(model.parameters())
    assert memory.gradients == bytes_of(parameter.grad for parameter in trained)
    assert memory.optimizer == bytes_of(moments)


def test_adapter_is_counted_like_pefts(config):
    model = XGenMMForConditionalGeneration(config).to(torch.bfloat16)
    start = bytes_of(model.parameters())
    modules = ModuleArguments(lora_resampler=True)
    model = get_peft_model(model, lora_config(model, ModelConfig(use_peft=True, lora_r=8), modules))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    memory = estimate_memory(config, lora_rank=8, lora_resampler=True, dtype="bfloat16")
    assert memory.optimizer == 8 * trained
    resampler = sum(parameter.numel() for name, parameter in model.named_parameters() if "modules_to_save" in name)
    assert memory.weights == start + 4 * (trained - resampler)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_near_what_autograd_keeps(config, checkpointing):
    batch, sequence = 2, 192
    model = XGenMMForConditionalGeneration(config).float().train()
    choose_trained(model, ModuleArguments())
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    latents, side = config.resampler_config.num_latents, config.tile_size
    ids = torch.full((batch, sequence), 5)
    ids[:, :latents] = config.image_token_id
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights and tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=ids, pixel_values=torch.rand(batch, 3, side, side), use_cache=False)
    measured = sum(size for _, size in kept.values())
    work = Workload(batch, sequence, tiles=1, gradient_checkpointing=checkpointing)
    estimated = activation_bytes(config, work, 4.0, unfreeze_vision=False)
    head = min(batch * sequence, 256) * config.text_config.vocab_size * 12
    # With checkpointing the estimate also holds the one layer that is being computed again.
    assert 0.7 < (estimated - head) / measured < (6 if checkpointing else 1.4)


def test_sharding_divides_what_it_shards(config):
    alone, two, three = (
        estimate_memory(config, num_gpus=n, sharding=s) for n, s in ((1, "none"), (4, "zero2"), (4, "zero3"))
    )
    assert (two.weights, two.gradients) == (alone.weights, alone.gradients // 4)
    assert three.optimizer == two.optimizer == alone.optimizer // 4
    assert three.activations == alone.activations


def test_published_models():
    sizes = {
        size: estimate_memory(published_config(size), compute_dtype="float32").weights / 4 for size in ("4b", "14b")
    }
    assert 4.2e9 < sizes["4b"] < 4.6e9
    assert 14e9 < sizes["14b"] < 15e9
    lora = estimate_memory(published_config("4b"), Workload(batch=1), lora_rank=64, dtype="bfloat16")
    full = estimate_memory(published_config("4b"), Workload(batch=1))
    assert lora.total < full.total / 3
    assert memory_table().count("\n") == 11
    with pytest.raises(ValueError, match="there are 4b and 14b"):
        published_config("7b")
    with pytest.raises(ValueError, match="sharding is 'zero9'; use one of"):
        estimate_memory(published_config("4b"), sharding="zero9")
