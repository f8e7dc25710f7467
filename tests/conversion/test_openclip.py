"""OpenCLIP towers: the features they gave in open_clip, and live where open_clip imports."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from xgenmm_hf.conversion import convert_checkpoint, convert_state_dict, export_checkpoint, export_state_dict
from xgenmm_hf.conversion.openclip import vision_config_from_openclip
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


TOWERS = ("clip_quick_gelu", "clip_gelu", "siglip")
KINDS = {"clip_quick_gelu": "openclip", "clip_gelu": "openclip", "siglip": "timm"}
ACTIVATIONS = {"clip_quick_gelu": "quick_gelu", "clip_gelu": "gelu", "siglip": "gelu"}
TEXT = {
    "initial_tokenizer_len": 60,
    "model_type": "phi3",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ORIGINAL = {
    "model_type": "xgenmm",
    "text_config": TEXT,
    "vision_encoder_config": {"image_aspect_ratio": "none"},
    "vision_tokenizer_config": {"vis_feature_dim": 48, "num_vis_tokens": 4},
}


def visual(folder: Path) -> dict[str, torch.Tensor]:
    """Returns an OpenCLIP checkpoint's vision tensors without `visual.`."""
    state = load_file(folder / "open_clip_model.safetensors")
    return {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}


def described(folder: Path, name: str) -> dict:
    shapes = {key: tuple(tensor.shape) for key, tensor in visual(folder).items()}
    model = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    return vision_config_from_openclip(KINDS[name], shapes, model)


def rest_of_checkpoint(vision_config: dict) -> dict[str, torch.Tensor]:
    """Returns random original tensors of everything but the tower."""
    model = XGenMMForConditionalGeneration(XGenMMConfig.from_dict({**ORIGINAL, "vision_config": vision_config}))
    original = export_state_dict(model.state_dict(), model.config)
    return {name: tensor for name, tensor in original.items() if not name.startswith("vlm.vision_encoder.")}


def features(model: XGenMMForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        outputs = model.model.vision_tower(pixels)
        return model.model._patch_features(outputs.last_hidden_state)


@pytest.mark.parametrize("name", TOWERS)
def test_config_from_tensors(openclip_fixtures: Path, name: str) -> None:
    config = described(openclip_fixtures / name, name)
    assert config["hidden_size"] == 48
    assert config["num_hidden_layers"] == 2
    assert config["patch_size"] == 7
    assert config["hidden_act"] == ACTIVATIONS[name]
    assert config["num_attention_heads"] == {"openclip": 4, "timm": 12}[KINDS[name]]
    assert config["image_size"] == {"openclip": 28, "timm": 30}[KINDS[name]]


@pytest.mark.parametrize("prefix", ["", "visual."])
@pytest.mark.parametrize("name", TOWERS)
def test_tower_inside_the_checkpoint(openclip_fixtures: Path, name: str, prefix: str) -> None:
    folder = openclip_fixtures / name
    config = XGenMMConfig.from_dict({**ORIGINAL, "vision_config": described(folder, name)})
    tensors = rest_of_checkpoint(described(folder, name))
    tensors |= {f"vlm.vision_encoder.{prefix}{key}": tensor.float() for key, tensor in visual(folder).items()}
    model = XGenMMForConditionalGeneration(config).eval()
    model.load_state_dict(convert_state_dict(tensors, config), strict=True)
    expected = load_file(folder / "expected.safetensors")
    torch.testing.assert_close(features(model, expected["pixels"]), expected["features"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TOWERS)
def test_activation_matters(openclip_fixtures: Path, name: str) -> None:
    """The fixtures are strong enough to tell activations apart."""
    folder = openclip_fixtures / name
    other = "gelu" if name == "clip_quick_gelu" else "quick_gelu"
    config = XGenMMConfig.from_dict({**ORIGINAL, "vision_config": {**described(folder, name), "hidden_act": other}})
    tensors = rest_of_checkpoint(described(folder, name))
    tensors |= {f"vlm.vision_encoder.{key}": tensor.float() for key, tensor in visual(folder).items()}
    model = XGenMMForConditionalGeneration(config).eval()
    model.load_state_dict(convert_state_dict(tensors, config))
    expected = load_file(folder / "expected.safetensors")
    assert (features(model, expected["pixels"]) - expected["features"]).abs().max() > 1e-2


def write_source(folder: Path, tensors: dict[str, torch.Tensor], vision_config: dict | None = None) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(ORIGINAL))
    if vision_config is not None:
        (folder / "vision_config.json").write_text(json.dumps(vision_config))
    return folder


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tower_from_an_openclip_folder(openclip_fixtures: Path, tmp_path: Path, name: str, form: str) -> None:
    folder = tmp_path / "openclip"
    folder.mkdir()
    shutil.copyfile(openclip_fixtures / name / "open_clip_config.json", folder / "open_clip_config.json")
    state = load_file(openclip_fixtures / name / "open_clip_model.safetensors")
    if form == "safetensors":
        save_file(state, folder / "open_clip_model.safetensors")
    else:
        torch.save(
            {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 1},
            folder / "open_clip_pytorch_model.bin",
        )
    source = write_source(tmp_path / "source", rest_of_checkpoint(described(openclip_fixtures / name, name)))
    result = convert_checkpoint(source, tmp_path / "out", vision_encoder=folder, dtype="float32")
    assert result.skipped
    assert all("visual." not in skipped for skipped in result.skipped)
    model = XGenMMForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    expected = load_file(openclip_fixtures / name / "expected.safetensors")
    torch.testing.assert_close(features(model, expected["pixels"]), expected["features"], atol=2e-5, rtol=1e-5)
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.5, 0.4, 0.3]


def test_clip_tower_goes_back_to_openclip_names(openclip_fixtures: Path, tmp_path: Path) -> None:
    folder = openclip_fixtures / "clip_quick_gelu"
    tensors = rest_of_checkpoint(described(folder, "clip_quick_gelu"))
    tensors |= {f"vlm.vision_encoder.{key}": tensor.float() for key, tensor in visual(folder).items()}
    source = write_source(tmp_path / "source", tensors, described(folder, "clip_quick_gelu"))
    result = convert_checkpoint(source, tmp_path / "ours")
    assert result.dropped == ("vlm.vision_encoder.proj",)
    export_checkpoint(tmp_path / "ours", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert set(tensors) - set(back) == {"vlm.vision_encoder.proj"}
    assert all(torch.equal(back[name], tensors[name]) for name in back)
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "ours" / "config.json").read_bytes()


def release_shapes(**changes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes that tell the r-v1 release's tower."""
    return {
        "conv1.weight": (1280, 3, 14, 14),
        "positional_embedding": (730, 1280),
        "proj": (1280, 1024),
        "transformer.resblocks.0.mlp.c_fc.weight": (5120, 1280),
        "transformer.resblocks.31.mlp.c_fc.weight": (5120, 1280),
        **changes,
    }


def test_released_tower_is_known() -> None:
    config = vision_config_from_openclip("openclip", release_shapes(), None)
    assert config == {
        "model_type": "clip_vision_model",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 378,
        "patch_size": 14,
        "projection_dim": 1024,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"positional_embedding": (257, 1280)}, None, "quick_gelu is not stated"),
        ({"positional_embedding": (31, 1280)}, None, "no square number"),
        ({"conv1.weight": (999, 3, 14, 14)}, None, "head width"),
        ({}, {"vision_cfg": {"attentional_pool": True}}, "attentional_pool"),
    ],
)
def test_what_shapes_do_not_tell(changes: dict, model: dict | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vision_config_from_openclip("openclip", release_shapes(**changes), model)


def test_timm_tower_without_a_known_size() -> None:
    shapes = {"trunk.pos_embed": (1, 16, 8), "trunk.patch_embed.proj.weight": (8, 3, 7, 7)}
    with pytest.raises(ValueError, match="number of heads"):
        vision_config_from_openclip("timm", shapes, {"vision_cfg": {"timm_model_name": "vit_odd_siglip"}})


@pytest.mark.parametrize("name", TOWERS)
def test_live(openclip_maker: ModuleType, name: str) -> None:
    tower = openclip_maker.build_tower(openclip_maker.CONFIGS[name])
    shapes = {key: tuple(value.shape) for key, value in tower.visual.state_dict().items()}
    vision_config = vision_config_from_openclip(KINDS[name], shapes, openclip_maker.CONFIGS[name])
    config = XGenMMConfig.from_dict({**ORIGINAL, "vision_config": vision_config})
    tensors = rest_of_checkpoint(vision_config)
    tensors |= {f"vlm.vision_encoder.{key}": value for key, value in tower.visual.state_dict().items()}
    model = XGenMMForConditionalGeneration(config).eval()
    model.load_state_dict(convert_state_dict(tensors, config))
    pixels = torch.randn(2, 3, vision_config["image_size"], vision_config["image_size"])
    expected = openclip_maker.features_of(tower, pixels)
    torch.testing.assert_close(features(model, pixels), expected, atol=2e-5, rtol=1e-5)
