"""What vLLM's Transformers backend asks of a multimodal model, without vLLM.

The calls are the ones it makes: the model comes from `AutoModel.from_config`, gets one flat sequence with its own
attention function, and images item by item; the processor tells where an image's tokens are and how many.
"""

import inspect

import pytest
import torch
from PIL import Image
from transformers import AttentionInterface, AutoModel

from xgenmm_hf import TINY_MODEL, XGenMMConfig, XGenMMForConditionalGeneration, XGenMMModel, XGenMMProcessor
from xgenmm_hf.modeling.compat_xgenmm import IS_V5


SIZES = [(60, 100), (100, 40), (50, 50)]  # (height, width)


@pytest.fixture(scope="module")
def processor() -> XGenMMProcessor:
    return XGenMMProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def images() -> list[Image.Image]:
    return [Image.linear_gradient("L").resize((width, height)).convert("RGB") for height, width in SIZES]


def test_the_classes_declare_themselves(make_config, make_model):
    model = make_model()
    assert model.is_backend_compatible()
    assert model.base_model_prefix == "model"
    base = AutoModel.from_config(make_config())
    assert type(base) is XGenMMModel
    assert base.is_backend_compatible()
    assert base.config.get_text_config() is base.config.text_config
    assert base.get_decoder() is base.language_model
    assert base.get_input_embeddings() is base.language_model.get_input_embeddings()
    if IS_V5:
        # how the backend finds the encoder that it may compile, or leave out
        assert base.get_encoder(modality="image") is base.vision_tower


def test_attention_goes_through_the_interface_with_what_the_engine_passes(make_config):
    seen = []

    def engine_attention(module, query, key, value, attention_mask, attention_instances=None, **kwargs):
        # the engine looks its own attention up by the layer's number
        seen.append(attention_instances[module.layer_idx])
        repeats = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(repeats, 1) for part in (key, value))
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return output.transpose(1, 2), None

    AttentionInterface.register("engine", engine_attention)
    expected = AutoModel.from_config(make_config()).eval()
    config = make_config()
    config.text_config._attn_implementation = "engine"
    model = AutoModel.from_config(config).eval()
    model.load_state_dict(expected.state_dict())
    embeds = torch.rand(1, 9, config.text_config.hidden_size)
    positions = torch.arange(9)[None]
    instances = {number: f"layer {number}" for number in range(config.text_config.num_hidden_layers)}
    with torch.no_grad():
        hidden = model(
            input_ids=None,
            inputs_embeds=embeds,
            use_cache=False,
            position_ids=positions,
            attention_instances=instances,
            return_dict=False,
        )[0]
        wanted = expected(inputs_embeds=embeds, use_cache=False).last_hidden_state
    assert seen == list(instances.values())
    assert hidden.shape == (1, 9, config.text_config.hidden_size)
    assert torch.allclose(hidden, wanted, atol=1e-5)


def test_weights_lie_where_the_engine_loads_them(make_model):
    names = set(make_model().state_dict())
    assert {"lm_head.weight", "lm_head.bias"} <= names
    assert {name.split(".")[1] for name in names if not name.startswith("lm_head.")} == {
        "vision_tower",
        "resampler",
        "language_model",
    }


def as_vllm_builds_it(config) -> XGenMMModel:
    """Returns the model that vLLM gets: it registers its attention and names it in the text config."""
    AttentionInterface.register("vllm", AttentionInterface()["sdpa"])
    config.text_config._attn_implementation = "vllm"
    return AutoModel.from_config(config).eval()


def split_as_vllm_does(name: str, tensor: torch.Tensor, config) -> dict[str, torch.Tensor]:
    """Splits a stored Phi-3 projection into the ones that vLLM fuses again and shards."""
    text = config.text_config
    head_dim = text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
    for fused, parts, sizes in (
        ("qkv_proj", ("q_proj", "k_proj", "v_proj"), (queries, keys, keys)),
        ("gate_up_proj", ("gate_proj", "up_proj"), (text.intermediate_size, text.intermediate_size)),
    ):
        if f".{fused}." in name:
            split = tensor.split(sizes)
            return {name.replace(fused, part): piece for part, piece in zip(parts, split, strict=True)}
    return {name: tensor}


def test_vllm_gets_the_same_network_in_separate_projections(make_config):
    config = make_config()
    config.text_config.sliding_window = 4
    expected = AutoModel.from_config(config).eval()
    again = make_config()
    again.text_config.sliding_window = 4
    model = as_vllm_builds_it(again)
    state = {}
    for name, tensor in expected.state_dict().items():
        state.update(split_as_vllm_does(name, tensor, config))
    model.load_state_dict(state, strict=True)
    assert model.language_model.config._attn_implementation == "vllm"
    model.language_model.config._attn_implementation = expected.language_model.config._attn_implementation
    ids = torch.arange(10, 40).reshape(2, 15)
    with torch.no_grad():
        outputs, wanted = model(input_ids=ids), expected(input_ids=ids)
    torch.testing.assert_close(outputs.last_hidden_state, wanted.last_hidden_state, rtol=0, atol=1e-6)


def test_vllm_splits_every_large_matrix_by_heads(make_config):
    base = as_vllm_builds_it(make_config())
    layers = {name.replace(".0.", ".*.") for name, part in base.named_modules() if isinstance(part, torch.nn.Linear)}
    decoder = {name for name in layers if name.startswith("language_model.layers.*.")}
    assert {name.rpartition(".")[2] for name in decoder} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    plan = {name: style for name, style in base.tp_plan.items() if not name.endswith("embed_tokens")}
    assert set(plan) == decoder
    assert {style for name, style in plan.items() if name.endswith(("o_proj", "down_proj"))} == {"rowwise"}
    # nothing is gathered: each rank keeps its own heads
    assert {style for name, style in plan.items() if not name.endswith(("o_proj", "down_proj"))} == {"colwise"}
    assert {name.split(".")[1] for name in base.pp_plan} == {"embed_tokens", "layers", "norm"}


def test_vllm_refuses_what_it_cannot_express(make_config):
    config = make_config()
    partial = config.text_config.to_dict() | {"partial_rotary_factor": 0.5}
    partial["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    config = XGenMMConfig.from_dict(config.to_dict() | {"text_config": partial})
    with pytest.raises(ValueError, match="vLLM cannot run this checkpoint: .* partial_rotary_factor 0.5"):
        as_vllm_builds_it(config)
    half = config.text_config.hidden_size // config.text_config.num_attention_heads // 2
    factors = {"short_factor": [1.0] * half, "long_factor": [2.0] * half}
    longrope = make_config().to_dict()
    longrope["text_config"]["rope_parameters"] = {
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0, **factors,
    }  # fmt: skip
    longrope["text_config"]["rope_scaling"] = {"type": "longrope", **factors}
    longrope["text_config"].update(max_position_embeddings=512, original_max_position_embeddings=128)
    with pytest.raises(ValueError, match="vLLM cannot run this checkpoint: .* longrope"):
        as_vllm_builds_it(XGenMMConfig.from_dict(longrope))
    longrope["text_config"]["max_position_embeddings"] = 128
    assert as_vllm_builds_it(XGenMMConfig.from_dict(longrope)).language_model.config.model_type == "mistral"


def test_vllm_refuses_the_first_release(make_config):
    config = make_config()
    config.resampler_config.text_conditioned = True
    with pytest.raises(ValueError, match="vLLM cannot run this checkpoint: the first release"):
        as_vllm_builds_it(config)


def test_the_processor_counts_tokens_and_tiles_before_it_sees_an_image(processor, images):
    counted = processor._get_num_multimodal_tokens(image_sizes=SIZES)
    inputs = processor(images=images, text=processor.image_token * 3, return_tensors="pt")
    assert counted["num_image_patches"] == inputs["image_num_tiles"].tolist()
    assert sum(counted["num_image_tokens"]) == int((inputs["input_ids"] == processor.image_token_id).sum())
    assert sum(counted["num_image_patches"]) == inputs["pixel_values"].shape[0]
    one_tile = processor._get_num_multimodal_tokens(image_sizes=SIZES, image_aspect_ratio="none")
    assert one_tile["num_image_patches"] == [1, 1, 1]
    # the memory of the largest image is reserved by asking for a very large one
    largest = processor._get_num_multimodal_tokens(image_sizes=([10_000, 10_000],))
    assert largest["num_image_tokens"][0] >= max(counted["num_image_tokens"])


def test_the_processor_says_which_tokens_are_images(processor, images):
    text = f"Compare {processor.image_token} with {processor.image_token} and {processor.image_token}."
    inputs = processor(
        text=text,
        images=images,
        return_tensors="pt",
        return_mm_token_type_ids=True,
        truncation=False,
        add_special_tokens=False,
    )
    places = torch.where(inputs["mm_token_type_ids"][0] == 1)[0]
    counts = processor._get_num_multimodal_tokens(image_sizes=SIZES)["num_image_tokens"]
    assert len(places) == sum(counts)
    for part in places.split(counts):
        # each image's tokens stand together
        assert (part.diff() == 1).all()
        assert (inputs["input_ids"][0, part] == processor.image_token_id).all()


def test_images_are_encoded_item_by_item(processor, images):
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32).model.eval()
    whole = processor(images=images, text=processor.image_token * 3, return_tensors="pt")
    counts = processor._get_num_multimodal_tokens(image_sizes=SIZES)
    tiles = whole["pixel_values"].split(counts["num_image_patches"])
    with torch.no_grad():
        for number, image in enumerate(tiles):
            features = model.get_image_features(
                image,
                image_sizes=whole["image_sizes"][number : number + 1],
                image_num_tiles=whole["image_num_tiles"][number : number + 1],
            )
            (tokens,) = features.pooler_output
            assert tokens.shape == (counts["num_image_tokens"][number], model.config.text_config.hidden_size)
            alone = processor(images=images[number], text=processor.image_token, return_tensors="pt")
            expected = model.get_image_features(
                alone["pixel_values"], alone["image_sizes"], alone["image_num_tiles"]
            ).pooler_output[0]
            assert torch.allclose(tokens, expected, atol=1e-4)


def items_of(fields: dict, tiles: list[int]) -> list[dict]:
    """Splits fields as the engine does: lists have an entry an image, tensors are cut by tiles."""
    places = torch.tensor([0, *tiles]).cumsum(0).tolist()
    return [
        {
            name: values[number][None] if isinstance(values, list) else values[places[number] : places[number + 1]]
            for name, values in fields.items()
        }
        for number in range(len(tiles))
    ]


def test_placeholders_are_found_from_the_replacements(processor, images):
    prompt = f"<|user|>\n{processor.image_token}\n{processor.image_token}\n{processor.image_token}\nWhich?<|end|>\n"
    # images are processed on their own, with a text that holds nothing else, ...
    fields = processor(
        text=processor.image_token * 3,
        images=images,
        return_tensors="pt",
        return_text_replacement_offsets=True,
        truncation=False,
        add_special_tokens=False,
    )
    (entries,) = fields["text_replacement_offsets"]
    assert [entry["type"] for entry in entries] == ["image"] * 3
    pieces = [processor.tokenizer(entry["replacement"], add_special_tokens=False)["input_ids"] for entry in entries]
    counts = processor._get_num_multimodal_tokens(image_sizes=SIZES)["num_image_tokens"]
    assert pieces == [[processor.image_token_id] * count for count in counts]
    # ... and then take the places of the image tokens of the prompt
    remaining = iter(pieces)
    ids = processor.tokenizer(prompt)["input_ids"]
    expanded = [token for old in ids for token in (next(remaining) if old == processor.image_token_id else [old])]
    assert expanded == processor(text=prompt, images=images)["input_ids"][0]
    spelled = processor.image_token * 3
    for entry in reversed(entries):
        start, end = entry["span"]
        spelled = spelled[:start] + entry["replacement"] + spelled[end:]
    assert spelled == processor.image_token * sum(counts)
    assert entries[-1]["new_span"][1] == len(spelled)


def test_fields_of_an_image_can_be_kept_and_used_alone(processor, images):
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32).model.eval()
    options = {"return_tensors": "pt", "return_text_replacement_offsets": True}
    together = dict(processor(text=processor.image_token * 3, images=images, **options))
    fields = {name: together[name] for name in processor.image_processor.model_input_names}
    items = items_of(fields, processor._get_num_multimodal_tokens(image_sizes=SIZES)["num_image_patches"])
    with torch.no_grad():
        for image, item in zip(images, items, strict=True):
            alone = processor(text=processor.image_token, images=image, return_tensors="pt")
            assert all(torch.equal(item[name], alone[name]) for name in fields)
            found, expected = (
                model.get_image_features(**inputs).pooler_output[0]
                for inputs in (item, {name: alone[name] for name in fields})
            )
            assert torch.equal(found, expected)
        # items of several requests in one call, in any order
        mixed = [items[2], items[0]]
        joined = {name: torch.cat([item[name] for item in mixed]) for name in fields}
        tokens = model.get_image_features(**joined).pooler_output
        for found, item in zip(tokens, mixed, strict=True):
            assert torch.allclose(found, model.get_image_features(**item).pooler_output[0], atol=1e-4)


def test_forward_takes_what_the_engine_passes():
    parameters = inspect.signature(XGenMMModel.forward).parameters
    assert {"input_ids", "inputs_embeds", "position_ids"} <= set(parameters)
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
