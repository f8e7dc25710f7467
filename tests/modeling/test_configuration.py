"""The config: defaults, partial dicts, the original schema, both forms of the rotary embedding."""

import json
import logging
from pathlib import Path

import pytest
from transformers import AutoConfig, CLIPVisionConfig, Phi3Config, SiglipVisionConfig

from xgenmm_hf import XGenMMConfig


GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
ORIGINAL = Path(__file__).parents[3] / "shared" / "original"
INSTRUCT = {
    "model_type": "xgenmm",
    "architectures": ["XGenMMModelForConditionalGeneration"],
    "auto_map": {"AutoConfig": "modeling_xgenmm.XGenMMConfig"},
    "text_config": {
        "initial_tokenizer_len": 32012,
        "model_type": "phi3",
        "sliding_window": 2047,
        "torch_dtype": "bfloat16",
    },
    "vision_encoder_config": {"anyres_patch_sampling": True, "image_aspect_ratio": "anyres"},
    "vision_tokenizer_config": {"model_type": "xgenmm_vision_tokenizer"},
    "torch_dtype": "float32",
}


def test_default_is_the_4b_model_and_silent(caplog, capsys):
    with caplog.at_level(logging.INFO):
        config = XGenMMConfig()
    assert not caplog.records and capsys.readouterr() == ("", "")
    assert config.vision_config.num_hidden_layers == 27 and config.vision_config.hidden_size == 1152
    assert config.resampler_config.num_latents == 128 and config.resampler_config.hidden_size == 1152
    assert config.text_config.vocab_size == 32015 and config.text_config.hidden_size == 3072
    assert config.text_config.sliding_window == 2048
    assert list(config.added_tokens.values()) == [32012, 32013, 32014]


def test_partial_dicts_override_the_defaults():
    config = XGenMMConfig(
        vision_config={"num_hidden_layers": 3}, text_config={"hidden_size": 64}, resampler_config={"depth": 2}
    )
    assert config.vision_config.num_hidden_layers == 3 and config.vision_config.image_size == 384
    assert config.text_config.hidden_size == 64 and config.text_config.vocab_size == 32015
    assert config.resampler_config.depth == 2 and config.resampler_config.num_heads == 16


def test_config_objects_and_other_types():
    vision, text = CLIPVisionConfig(image_size=384), AutoConfig.for_model("llama", hidden_size=64)
    config = XGenMMConfig(vision_config=vision, text_config=text)
    assert config.vision_config is vision and config.text_config is text
    assert config.resampler_config.hidden_size == vision.hidden_size


def test_siglip_never_has_a_pooling_head():
    given = SiglipVisionConfig(image_size=384)
    config = XGenMMConfig(vision_config=given)
    assert config.vision_config.vision_use_head is False
    assert getattr(given, "vision_use_head", True) is True


def test_original_schema():
    config = XGenMMConfig.from_dict(INSTRUCT)
    assert config.original_schema
    assert config.text_config.sliding_window == 2048  # a key at a distance of 2047 is still seen
    assert config.text_config.vocab_size == 32015 and config.image_token_id == 32012
    assert config.image_aspect_ratio == "anyres" and len(config.anyres_grids) == 5
    assert config.auto_map["AutoConfig"] == "configuration_xgenmm.XGenMMConfig"
    written = config.to_dict()
    assert "vision_encoder_config" not in written and "original_schema" not in written
    assert not XGenMMConfig(**written).original_schema


def test_fields_of_the_original_schema_are_read_by_from_dict_alone():
    before = json.dumps(INSTRUCT)
    with pytest.raises(ValueError, match="XGenMMConfig.from_dict"):
        XGenMMConfig(**INSTRUCT)
    assert XGenMMConfig.from_dict(INSTRUCT, image_token_id=7).image_token_id == 7
    config, unused = XGenMMConfig.from_dict(INSTRUCT, return_unused_kwargs=True, other=1)
    assert config.original_schema and unused == {"other": 1}
    assert json.dumps(INSTRUCT) == before


def test_first_release_has_its_own_tower_and_resampler():
    """Source: the published config of xgen-mm-phi3-mini-instruct-r-v1, which leaves most of it to class defaults."""
    fields = {
        "model_type": "blip_3",
        "text_config": {"model_type": "phi3", "initial_tokenizer_len": 32012, "sliding_window": 2047},
        "vision_encoder_config": {"model_type": "blip_3_vision_encoder", "anyres_patch_sampling": True},
        "vision_tokenizer_config": {"model_type": "blip_3_vision_tokenizer"},
    }
    config = XGenMMConfig.from_dict(fields)
    assert config.model_type == "xgenmm" and config.original_schema
    vision = config.vision_config
    assert (vision.model_type, vision.hidden_size, vision.num_hidden_layers) == ("clip_vision_model", 1280, 32)
    assert (vision.image_size, vision.patch_size, vision.hidden_act) == (378, 14, "quick_gelu")
    assert config.anyres_grids == [[378, 756], [756, 378], [756, 756], [1134, 378], [378, 1134]]
    resampler = config.resampler_config
    assert resampler.text_conditioned and resampler.num_text_queries == 256 and not resampler.letterbox_mask
    assert (resampler.hidden_size, resampler.num_latents) == (1280, 128)
    assert not XGenMMConfig().resampler_config.text_conditioned and XGenMMConfig().resampler_config.letterbox_mask


def test_original_schema_without_a_window_has_none():
    text = {name: value for name, value in INSTRUCT["text_config"].items() if name != "sliding_window"}
    assert XGenMMConfig.from_dict({**INSTRUCT, "text_config": text}).text_config.sliding_window is None


def test_original_folder_states_its_tower():
    config = XGenMMConfig.from_pretrained(GOLDEN / "sliding" / "checkpoint")
    assert config.vision_config.hidden_size == 24 and config.tile_size == 62 and config.patches_per_side == 4
    assert config.text_config.sliding_window == 21
    assert config.resampler_config.num_latents == 8


@pytest.mark.skipif(not ORIGINAL.is_dir(), reason="the released checkpoint's files are not here")
def test_released_config():
    config = XGenMMConfig.from_pretrained(ORIGINAL)
    assert config.vision_config.num_hidden_layers == 27 and config.text_config.num_hidden_layers == 32


@pytest.mark.parametrize("case", ["defaults", "tiny", "clip", "longrope"])
def test_saved_and_loaded(tmp_path, make_config, case):
    longrope = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = {
        "defaults": XGenMMConfig,
        "tiny": lambda: make_config(text={"rope_theta": 5e5, "sliding_window": None, "pad_token_id": None}),
        "clip": lambda: make_config(vision={"model_type": "clip_vision_model"}),
        "longrope": lambda: make_config(text={"rope_scaling": longrope}),
    }[case]()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, XGenMMConfig)
    for part in ("vision_config", "resampler_config", "text_config"):
        assert getattr(loaded, part).to_dict() == getattr(config, part).to_dict(), part
    assert loaded.to_dict()["anyres_grids"] == config.to_dict()["anyres_grids"]


def test_rotary_embedding_is_written_for_both_lines(tmp_path, make_config):
    make_config(text={"rope_theta": 5e5}).save_pretrained(tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert text["rope_theta"] == 5e5 and text["rope_scaling"] is None
    assert text["rope_parameters"]["rope_theta"] == 5e5 and text["rope_parameters"]["rope_type"] == "default"


@pytest.mark.parametrize("dropped", [("rope_parameters",), ("rope_theta", "rope_scaling")])
def test_either_form_of_the_rotary_embedding_is_read(make_config, dropped):
    fields = make_config(text={"rope_theta": 5e5}).to_diff_dict()
    fields["text_config"] = {name: value for name, value in fields["text_config"].items() if name not in dropped}
    read = XGenMMConfig(**fields).to_diff_dict()["text_config"]
    assert read["rope_theta"] == read["rope_parameters"]["rope_theta"] == 5e5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_aspect_ratio": "tiles"}, "image_aspect_ratio is 'tiles'"),
        ({"anyres_grids": []}, "anyres_grids is empty"),
        ({"anyres_grids": [[384, 400]]}, "multiples of the tile size, 384"),
        ({"resampler_config": {"hidden_size": 7}}, "resampler_config.hidden_size is 7"),
        ({"text_config": {"model_type": "phi33"}}, "'phi33' is unknown"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        XGenMMConfig(**fields)


def test_a_given_dict_is_not_changed():
    text = {"hidden_size": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    copy = json.loads(json.dumps(text))
    XGenMMConfig(text_config=text)
    assert text == copy


def test_phi3_object_as_text_config(tmp_path):
    config = XGenMMConfig(text_config=Phi3Config(vocab_size=50, pad_token_id=0, sliding_window=None))
    config.save_pretrained(tmp_path)
    assert XGenMMConfig.from_pretrained(tmp_path).text_config.sliding_window is None
