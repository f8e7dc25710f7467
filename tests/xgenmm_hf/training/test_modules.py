"""What trains, what does not, and what is counted."""

import re

import pytest
import torch
from peft import get_peft_model
from trl import ModelConfig

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration
from xgenmm_hf.inference.quantisation import check_quantised
from xgenmm_hf.training.arguments import ModuleArguments
from xgenmm_hf.training.guards import split_groups
from xgenmm_hf.training.modules import (
    choose_trained,
    count_parameters,
    counts_table,
    lora_config,
    lora_targets,
    quantization_config,
    resolve_modules,
)


@pytest.fixture
def model():
    return XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL)


def trained_parts(model) -> set[str]:
    return {part for part, (_, trained) in count_parameters(model).items() if trained}


def batch(model):
    """Returns one row with an image of one tile."""
    config = model.config
    num_latents = config.resampler_config.num_latents
    ids = torch.tensor([[5, *[config.image_token_id] * num_latents, 6, 7, 8]])
    side = config.tile_size
    return {"input_ids": ids, "labels": ids, "pixel_values": torch.rand(1, 3, side, side)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"resampler", "embeddings", "language model", "head"}),
        ({"unfreeze_vision": True}, {"vision tower", "resampler", "embeddings", "language model", "head"}),
        ({"freeze_resampler": True}, {"embeddings", "language model", "head"}),
        ({"freeze_language_model": True}, {"resampler"}),
    ],
)
def test_parts_that_train(model, options, expected):
    choose_trained(model, ModuleArguments(**options))
    assert trained_parts(model) == expected


def test_nothing_to_train_is_refused(model):
    with pytest.raises(ValueError, match="Everything is frozen"):
        choose_trained(model, ModuleArguments(freeze_resampler=True, freeze_language_model=True))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("with_lora", [False, True])
def test_frozen_tower_keeps_no_graph(model, checkpointing, with_lora):
    if with_lora:
        model = get_peft_model(model, lora_config(model, ModelConfig(use_peft=True), ModuleArguments()))
        model.enable_input_require_grads()
    else:
        choose_trained(model, ModuleArguments())
        model.enable_input_require_grads()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    tower = (model.get_base_model() if with_lora else model).model.vision_tower
    kept = []
    tower.register_forward_hook(lambda module, args, output: kept.append(output.last_hidden_state.grad_fn))
    for layer in tower.vision_model.encoder.layers:
        layer.register_forward_hook(lambda module, args, output: kept.append(torch.is_grad_enabled()))
    model(**batch(model)).loss.backward()
    assert len(kept) > 1
    assert not any(kept)
    assert all(weight.grad is None for weight in tower.parameters())


def test_unfrozen_tower_and_images_that_ask_get_gradients(model):
    choose_trained(model, ModuleArguments(unfreeze_vision=True))
    model(**batch(model)).loss.backward()
    assert all(weight.grad is not None for weight in model.model.vision_tower.parameters())
    choose_trained(model, ModuleArguments())
    inputs = batch(model)
    inputs["pixel_values"].requires_grad_(True)
    model(**inputs).loss.backward()
    assert inputs["pixel_values"].grad.any()


def test_lora_adapts_every_linear_layer_of_the_decoder_and_nothing_else(model):
    pattern = re.compile(lora_targets(model))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    adapted = {name for name in linear if pattern.fullmatch(name)}
    assert adapted == {name for name in linear if "language_model.layers." in name}
    assert len(adapted) == 4 * model.config.text_config.num_hidden_layers


def test_lora_on_named_layers(model):
    pattern = re.compile(lora_targets(model, ["qkv_proj", "o_proj"]))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert all("self_attn" in name for name in linear if pattern.fullmatch(name))
    with pytest.raises(ValueError, match=r"names q_proj, which fits no module here; use down_proj, gate_up"):
        lora_targets(model, ["q_proj"])


def test_lora_trains_the_added_tokens_and_the_resampler_if_asked(model):
    ids = sorted(model.config.added_tokens.values())
    before = model.get_input_embeddings().weight.detach().clone()
    config = lora_config(model, ModelConfig(use_peft=True), ModuleArguments(lora_resampler=True))
    peft_model = get_peft_model(model, config)
    assert trained_parts(peft_model) == {"resampler", "embeddings", "LoRA"}
    assert count_parameters(peft_model)["embeddings"][1] == 3 * model.config.text_config.hidden_size
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=1.0)
    token = model.config.end_of_chunk_token_id
    ids_of_row = torch.tensor([[5, token, 6, 7]])
    peft_model(input_ids=ids_of_row, labels=ids_of_row).loss.backward()
    optimizer.step()
    after = peft_model.merge_and_unload().get_input_embeddings().weight
    changed = (after != before).any(-1).nonzero().flatten().tolist()
    assert changed == [token]
    assert token in ids


def test_no_lora_without_being_asked(model):
    assert lora_config(model, ModelConfig(), ModuleArguments()) is None


def test_quantisation_leaves_tower_resampler_and_head(monkeypatch):
    with pytest.raises(ValueError, match="add use_peft"):
        quantization_config(ModelConfig(load_in_4bit=True))
    assert quantization_config(ModelConfig(use_peft=True)) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .xgenmm-hf\[quant\]"):
        quantization_config(ModelConfig(load_in_4bit=True, use_peft=True))
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    config = quantization_config(ModelConfig(load_in_8bit=True, use_peft=True))
    assert config.llm_int8_skip_modules == ["model.vision_tower", "model.resampler", "lm_head"]


def test_counts_are_those_of_the_parameters(model):
    choose_trained(model, ModuleArguments())
    counts = count_parameters(model)
    assert sum(total for total, _ in counts.values()) == sum(p.numel() for p in model.parameters())
    tower = sum(p.numel() for p in model.model.vision_tower.parameters())
    assert counts["vision tower"] == (tower, 0)
    lines = counts_table(counts)
    assert f"{tower:,}" in lines
    assert "vision tower" in lines


def test_names_that_fit_nothing_or_too_much_are_refused(model):
    assert resolve_modules(model, "model.resampler", "freeze") == ["model.resampler"]
    with pytest.raises(ValueError, match="option names resampl, which fits no module here"):
        resolve_modules(model, "resampl", "option")
    with pytest.raises(ValueError, match=r"option names mlp, which fits \d+ modules here"):
        resolve_modules(model, "mlp", "option", only_one=True)
    with pytest.raises(ValueError, match="option names nothing"):
        resolve_modules(model, [], "option")
    with pytest.raises(ValueError, match="lora_modules_to_save names norm, which fits"):
        lora_config(model, ModelConfig(use_peft=True, lora_modules_to_save=["norm"]), ModuleArguments())


def test_lora_on_the_vision_tower(model):
    config = lora_config(model, ModelConfig(use_peft=True), ModuleArguments(lora_vision=True))
    adapted = get_peft_model(model, config)
    tower = [name for name, weight in adapted.named_parameters() if "vision_tower" in name and weight.requires_grad]
    layers = model.config.vision_config.num_hidden_layers
    assert len(tower) == layers * 6 * 2  # two matrices for each of q, k, v, out, fc1, fc2
    adapted(**batch(adapted)).loss.backward()
    assert all(adapted.get_parameter(name).grad is not None for name in tower)


def test_parts_have_their_own_learning_rates(model):
    choose_trained(model, ModuleArguments(unfreeze_vision=True))
    names = {weight: name for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(
        [{"params": list(names)[::2], "weight_decay": 0.1}, {"params": list(names)[1::2], "weight_decay": 0.0}], lr=1.0
    )
    split_groups(optimizer, names, {"vision tower": 0.1, "resampler": 0.2})
    rates = {names[weight]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert len(rates) == len(names)
    for name, rate in rates.items():
        assert rate == (0.1 if "vision_tower" in name else 0.2 if "resampler" in name else 1.0)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_real_quantisation_takes_the_decoder_and_nothing_else(bits):
    quantised = pytest.importorskip("bitsandbytes").nn
    config = quantization_config(ModelConfig(use_peft=True, **{bits: True}))
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, quantization_config=config)
    kinds = (quantised.Linear4bit, quantised.Linear8bitLt)
    found = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert found == {name for name in linear if ".language_model.layers." in name}
    check_quantised(model)
    model.model.resampler.projection = quantised.Linear4bit(4, 4)
    with pytest.raises(ValueError, match=r"1 layers too many, such as model\.resampler\.projection"):
        check_quantised(model)
