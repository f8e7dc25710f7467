"""The parts of the model that golden data and the common tests do not reach."""

import json
import warnings
from copy import deepcopy

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMModel
from xgenmm_hf.modeling.compat_xgenmm import CACHE_NAME
from xgenmm_hf.modeling.tiling_xgenmm import tile_layout


def image_tokens(model, images) -> list[torch.Tensor]:
    with torch.no_grad():
        return model.get_image_features(**images).pooler_output


def attention_over_a_padding_mask(module, query, key, value, attention_mask, scaling, **kwargs):
    """What FlashAttention does with the (batch, keys) mask that the library hands it."""
    assert attention_mask is None or attention_mask.dim() == 2
    mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.transpose(1, 2), None


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_attention_implementations_agree(make_model, images, attention, monkeypatch):
    expected = image_tokens(make_model(), images)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", attention_over_a_padding_mask)
    model = make_model()
    model.config.resampler_config._attn_implementation = attention
    for tokens, reference in zip(image_tokens(model, images), expected, strict=True):
        torch.testing.assert_close(tokens, reference, rtol=0, atol=1e-5)


def test_attention_is_set_part_by_part(make_model):
    model = make_model()
    model.set_attn_implementation({"resampler_config": "eager", "vision_config": "sdpa", "text_config": "eager"})
    parts = (model.config.resampler_config, model.config.vision_config, model.config.text_config)
    assert [part._attn_implementation for part in parts] == ["eager", "sdpa", "eager"]


def test_masked_patches_change_nothing(make_model, images):
    """A letterbox patch of the feature map is never read."""
    model = make_model()
    images["image_sizes"] = torch.tensor([(20, 40), (60, 14)])
    images["image_num_tiles"] = torch.tensor([3, 3])
    layout = tile_layout(images["image_sizes"], images["image_num_tiles"], 6, torch.tensor([(2, 1), (1, 2)]), 4)
    assert not layout.visible.all()
    features = torch.rand(6, 16, 16)
    noisy = features.flatten(0, 1).clone()
    hidden = layout.source[~layout.visible]
    noisy[hidden] += 100
    with torch.no_grad():
        clean, changed = (
            model.model.sample_tokens(value, images["image_sizes"], images["image_num_tiles"])
            for value in (features, noisy.view_as(features))
        )
    torch.testing.assert_close(clean, changed)


def test_fixed_sampling_reads_all_tiles_together(make_model, images):
    """Each image is one chunk: its unpadded grid map and its overview, in any order."""
    model = make_model(anyres_patch_sampling=False)
    with torch.no_grad():
        features = model.vision_tower(images["pixel_values"]).last_hidden_state
        expected = []
        for start, (height, width), (cols, rows) in ((0, (20, 21), (2, 2)), (5, (30, 14), (1, 2))):
            grid = features[start + 1 : start + 1 + rows * cols].view(rows, cols, 4, 4, -1)
            merged = grid.permute(0, 2, 1, 3, 4).reshape(rows * 4, cols * 4, -1)
            if width / height > cols / rows:
                margin = (rows * 4 - int(height * (cols * 4 / width))) // 2
                merged = merged[margin : rows * 4 - margin]
            else:
                margin = (cols * 4 - int(width * (rows * 4 / height))) // 2
                merged = merged[:, margin : cols * 4 - margin]
            chunk = torch.cat([features[start], merged.flatten(0, 1)])
            expected.append(model.model.resampler(chunk[None]).last_hidden_state[0])
    tokens = image_tokens(model, images)
    assert [len(image) for image in tokens] == [4, 4]
    for got, reference in zip(tokens, expected, strict=True):
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-5)


def test_clip_tower_gives_normalised_patches_without_the_class_token(make_model, images):
    model = make_model(vision={"model_type": "clip_vision_model", "hidden_act": "quick_gelu"})
    with torch.no_grad():
        raw = model.vision_tower(images["pixel_values"]).last_hidden_state
        features = model.model._patch_features(raw)
    assert raw.shape[1] == 17 and features.shape[1] == 16
    norm = model.vision_tower.vision_model.post_layernorm
    torch.testing.assert_close(features, norm(raw)[:, 1:])
    assert [len(image) for image in image_tokens(model, images)] == [20, 12]
    names = [name for name in model.state_dict() if name.startswith("model.vision_tower")]
    assert all(name.startswith("model.vision_tower.vision_model.") for name in names)


def test_other_decoders(make_model, prompt):
    text = {"model_type": "llama", "sliding_window": None}
    model = make_model(text=text)
    assert type(model.language_model).__name__ == "LlamaModel"
    with torch.no_grad():
        assert model(**prompt).logits.shape == (1, 41, 103)


@pytest.mark.parametrize("mode", ["none", "pad"])
def test_one_tile_modes(make_model, mode):
    model = make_model(image_aspect_ratio=mode)
    pixel_values = torch.rand(3, 3, 16, 16)
    tokens = image_tokens(model, {"pixel_values": pixel_values})
    assert [image.shape for image in tokens] == [(4, 32)] * 3
    sized = {"pixel_values": pixel_values, "image_sizes": torch.tensor([(9, 300)] * 3)}
    for got, reference in zip(image_tokens(model, sized), tokens, strict=True):
        assert torch.equal(got, reference)


def test_tile_counts_default_to_the_sizes(make_model, images):
    model = make_model()
    counted = image_tokens(model, {name: images[name] for name in ("pixel_values", "image_sizes")})
    for got, reference in zip(counted, image_tokens(model, images), strict=True):
        assert torch.equal(got, reference)


def test_twelve_tiles(make_model):
    model = make_model(anyres_grids=[[48, 64], [64, 48]])
    images = {"pixel_values": torch.rand(13, 3, 16, 16), "image_sizes": torch.tensor([(500, 700)])}
    assert [len(image) for image in image_tokens(model, images)] == [13 * 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_num_tiles": torch.tensor([5, 2])}, "holds 8 tiles"),
        ({"image_num_tiles": torch.tensor([3, 5])}, "use the processor that belongs to the model"),
        ({"image_sizes": None}, "image_sizes is missing"),
        ({"input_ids": torch.full((1, 41), 100)}, "Image features and image tokens do not match"),
        ({"input_ids": None}, "one of input_ids and inputs_embeds"),
        ({"mm_encoder_outputs": {"image": object()}}, "pixel_values or mm_encoder_outputs"),
    ],
)
def test_inputs_that_do_not_fit(make_model, prompt, change, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**{**prompt, **change})


def test_logits_to_keep(make_model, prompt):
    model = make_model()
    with torch.no_grad():
        everything = model(**prompt).logits
        last = model(**prompt, logits_to_keep=1).logits
        chosen = model(**prompt, logits_to_keep=torch.tensor([3, 40])).logits
    torch.testing.assert_close(last, everything[:, -1:])
    torch.testing.assert_close(chosen, everything[:, [3, 40]])


def test_base_model_returns_hidden_states(make_model, prompt):
    model = make_model()
    assert model.base_model is model.model and isinstance(model.model, XGenMMModel)
    with torch.no_grad():
        hidden = model.model(**prompt).last_hidden_state
        torch.testing.assert_close(model.lm_head(hidden), model(**prompt).logits)
    assert isinstance(model.lm_head, torch.nn.Linear) and model.lm_head.bias is not None


def test_every_parameter_gets_a_gradient(make_model, prompt):
    model = make_model().train()
    model(**prompt, labels=prompt["input_ids"]).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_reaches_the_resampler(make_model, prompt, reentrant):
    def gradients(model):
        model.zero_grad()
        model(**prompt, labels=prompt["input_ids"]).loss.backward()
        return model.model.resampler.latents.grad.clone()

    model = make_model().train()
    expected = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    calls = []
    attention = model.model.resampler.layers[0].attention
    attention.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradients(model), expected)
    assert len(calls) == 2  # once forward, once again for the gradient


def test_shifted_labels_and_image_tokens(make_model, prompt):
    model = make_model()
    labels = prompt["input_ids"].clone()
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    with torch.no_grad():
        logits = model(**prompt).logits
        loss = model(**prompt, labels=labels).loss
        from_shifted = model(**prompt, labels=labels, shift_labels=shifted).loss
    targets = shifted.masked_fill(shifted == 100, -100)
    expected = torch.nn.functional.cross_entropy(logits[0], targets[0])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(from_shifted, expected)


def test_built_on_the_meta_device(make_config):
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(make_config())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_full_size_model_has_the_released_number_of_parameters():
    with torch.device("meta"):
        model = XGenMMForConditionalGeneration(XGenMMConfig())
    width, inner = 1152, 4304
    pooling_head = width + 4 * width**2 + 4 * width + 2 * width + 2 * width * inner + inner + width
    padding_rows = (32064 + 3 - 32015) * (2 * 3072 + 1)
    released = 17_437_028_876 // 4  # float32 bytes that the released checkpoint's index states
    assert sum(parameter.numel() for parameter in model.parameters()) + pooling_head + padding_rows == released


def test_device_map_and_reload(make_model, prompt, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = XGenMMForConditionalGeneration.from_pretrained(tmp_path, device_map="cpu", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(**prompt).logits, model(**prompt).logits)


def test_resized_vocabulary(make_model, prompt):
    model = make_model()
    model.resize_token_embeddings(110)
    assert model.config.text_config.vocab_size == 110
    with torch.no_grad():
        outputs = model(**prompt, labels=prompt["input_ids"])
    assert outputs.logits.shape[-1] == 110 and outputs.loss.isfinite()


@pytest.mark.parametrize("part", ["text_config", "resampler_config"])
def test_weights_that_the_config_does_not_use_are_an_error(make_model, tmp_path, part):
    model = make_model()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part] |= {"num_hidden_layers": 1} if part == "text_config" else {"depth": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = r"holds \d+ weights that its config has no place for \(model\.[\w.]+(, [\w.]+){4} and \d+ more\)"
    for model_class in (XGenMMForConditionalGeneration, XGenMMModel):
        with pytest.raises(
            ValueError, match=message.replace(r"model\.", "") if model_class is XGenMMModel else message
        ):
            model_class.from_pretrained(tmp_path)


def test_the_base_model_does_without_the_head(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded, info = XGenMMModel.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(loaded.resampler.latents, model.model.resampler.latents)
    assert not info["missing_keys"]


def test_tiles_are_counted_from_the_sizes(make_model, prompt):
    """What trainers that know nothing of tile counts leave: also where a call squashed every image to one tile."""
    model = make_model()
    ids = torch.cat([torch.arange(5, 9), torch.full((8,), 100), torch.arange(9, 14)])[None]
    squashed = {"pixel_values": prompt["pixel_values"][:2], "image_sizes": prompt["image_sizes"]}
    counted = {name: value for name, value in prompt.items() if name != "image_num_tiles"}
    with torch.no_grad():
        assert torch.equal(model(**counted).logits, model(**prompt).logits)
        stated = model(input_ids=ids, **squashed, image_num_tiles=torch.tensor([1, 1])).logits
        assert torch.equal(model(input_ids=ids, **squashed).logits, stated)


def test_no_forward_warns_of_two_caches(make_model, prompt, recwarn, caplog):
    model = make_model()
    with torch.no_grad():
        first = model(**prompt, use_cache=True)
        model(input_ids=torch.tensor([[5]]), use_cache=True, **{CACHE_NAME: first[CACHE_NAME]})
        model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert not [warning for warning in recwarn if "past_key_values" in str(warning.message)]
    assert "past_key_values" not in caplog.text


def test_a_forward_takes_a_cache_by_either_name(make_model, prompt):
    """Where the library calls it `cache`, the old name warns, in every forward pass of the library."""
    model = make_model()
    with torch.no_grad():
        first = model(**prompt, use_cache=True)
        ids, length = torch.tensor([[5]]), first[CACHE_NAME].get_seq_length()
        new = {name: model(input_ids=ids, **{name: deepcopy(first[CACHE_NAME])}) for name in ("cache", CACHE_NAME)}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            old = model(input_ids=ids, past_key_values=first[CACHE_NAME])
    assert old[CACHE_NAME].get_seq_length() == length + 1
    for output in new.values():
        assert torch.equal(output.logits, old.logits)
    assert any("`past_key_values` is deprecated" in str(each.message) for each in caught) == (CACHE_NAME == "cache")


@pytest.mark.parametrize("name", ["flex_attention", "sdpa", "eager"])
def test_declared_attention_of_the_resampler_agrees(make_model, images, name):
    """FlexAttention ends the process on a CPU where the mask is no block mask; the resampler takes SDPA for it."""
    expected = image_tokens(make_model(), images)
    model = make_model()
    model.set_attn_implementation({"resampler_config": name})
    assert model.config.resampler_config._attn_implementation == name
    for tokens, reference in zip(image_tokens(model, images), expected, strict=True):
        torch.testing.assert_close(tokens, reference, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_flex_attention_of_the_library_parts_agrees(make_model, prompt, part):
    expected, model = make_model(), make_model()
    model.set_attn_implementation({part: "flex_attention"})
    with torch.no_grad():
        torch.testing.assert_close(model(**prompt).logits, expected(**prompt).logits, rtol=0, atol=1e-4)


def test_every_part_takes_a_registered_attention(make_model, prompt):
    """`_supports_attention_backend`: an engine's own function is called by every part, by name."""
    called = set()

    def engine(module, *args, **kwargs):
        called.add(type(module).__name__)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *args, **kwargs)

    AttentionInterface.register("counted", engine)
    AttentionMaskInterface.register("counted", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model = make_model()
    expected = model(**prompt).logits
    model.set_attn_implementation("counted")
    torch.testing.assert_close(model(**prompt).logits, expected, rtol=0, atol=1e-4)
    assert called == {"SiglipAttention", "XGenMMResamplerAttention", "Phi3Attention"}


def test_torch_export_of_the_vision_part(make_model, images):
    class Vision(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, pixel_values, image_sizes, image_num_tiles):
            features = self.model.get_vision_features(pixel_values).last_hidden_state
            return self.model.sample_tokens(features, image_sizes, image_num_tiles)

    vision = Vision(make_model().model)
    inputs = (images["pixel_values"], images["image_sizes"], images["image_num_tiles"])
    exported = torch.export.export(vision, inputs)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*inputs), vision(*inputs))


def test_prefill_compiles_without_breaks(make_model, prompt):
    model = make_model()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**prompt).logits, model(**prompt).logits, rtol=0, atol=1e-5)
