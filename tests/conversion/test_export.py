"""The way back: the original's bits and configs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.conversion import convert_checkpoint, export_checkpoint
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


def differences(original: dict, exported: dict, path: str = "") -> list[str]:
    """Returns the fields that the original wrote and the export changed."""
    found = []
    for key, value in original.items():
        if isinstance(value, dict):
            found += differences(value, exported.get(key, {}), f"{path}{key}.")
        elif key not in exported or exported[key] != value:
            found.append(f"{path}{key}: {value} -> {exported.get(key)}")
    return found


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def same_tensors(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("case", ["anyres", "base", "sliding"])
def test_original_ours_original(golden: Path, source: Path, tmp_path: Path, golden_tensors, case: str) -> None:
    shutil.copyfile(golden / case / "checkpoint" / "config.json", source / "config.json")
    convert_checkpoint(source, tmp_path / "ours")
    result = export_checkpoint(tmp_path / "ours", tmp_path / "back")
    assert result.padding == "kept"
    back = load_file(tmp_path / "back" / "model.safetensors")
    used = {name: tensor for name, tensor in golden_tensors.items() if ".vision_encoder.head." not in name}
    assert same_tensors(back, used)
    assert differences(read(source / "config.json"), read(tmp_path / "back" / "config.json")) == []
    tower = read(tmp_path / "back" / "vision_config.json")
    assert differences(read(source / "vision_config.json"), tower) == []


@pytest.mark.parametrize("case", ["anyres", "base", "sliding"])
def test_ours_original_ours(golden: Path, source: Path, tmp_path: Path, case: str) -> None:
    shutil.copyfile(golden / case / "checkpoint" / "config.json", source / "config.json")
    convert_checkpoint(source, tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "back")
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "model.safetensors", "generation_config.json", "preprocessor_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_base_release_keeps_its_words(source: Path, tmp_path: Path) -> None:
    """Its config says any-resolution without grids; its preprocessor's null grids decide, and both come back."""
    config = read(source / "config.json")
    config["vision_encoder_config"] = {"model_type": "xgenmm_vision_encoder", "image_aspect_ratio": "anyres"}
    (source / "config.json").write_text(json.dumps(config))
    preprocessor = {"grids": None, "image_mean": [0.5, 0.5, 0.5], "size": [62, 62], "resize_mode": "squash"}
    (source / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 2}))
    result = convert_checkpoint(source, tmp_path / "ours")
    assert result.image_mode == "none"
    export_checkpoint(tmp_path / "ours", tmp_path / "back")
    for name in ("config.json", "preprocessor_config.json", "generation_config.json"):
        assert differences(read(source / name), read(tmp_path / "back" / name)) == []
    again = convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert again.image_mode == "none"


def test_pad_mode_comes_back(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "ours", image_mode="pad")
    export_checkpoint(tmp_path / "ours", tmp_path / "back")
    assert convert_checkpoint(tmp_path / "back", tmp_path / "again").image_mode == "pad"


def test_shards_and_half_precision(source: Path, tmp_path: Path, golden_tensors) -> None:
    half = {name: tensor.bfloat16() for name, tensor in golden_tensors.items()}
    save_file(half, source / "model.safetensors")
    convert_checkpoint(source, tmp_path / "ours")
    result = export_checkpoint(tmp_path / "ours", tmp_path / "back", max_shard_size="300KB")
    index = read(tmp_path / "back" / "model.safetensors.index.json")
    assert set(index["weight_map"].values()) == set(result.shards)
    assert len(result.shards) > 3
    back = {}
    for shard in result.shards:
        back |= load_file(tmp_path / "back" / shard)
    assert same_tensors(back, {name: tensor for name, tensor in half.items() if name in back})
    assert read(tmp_path / "back" / "config.json")["torch_dtype"] == "bfloat16"


def test_trained_model(source: Path, tmp_path: Path) -> None:
    """A folder that `save_pretrained` wrote has no kept rows: zeros stand in, and the config is derived."""
    convert_checkpoint(source, tmp_path / "ours")
    model = XGenMMForConditionalGeneration.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        model.lm_head.bias += 1
    model.save_pretrained(tmp_path / "trained")
    result = export_checkpoint(tmp_path / "trained", tmp_path / "back")
    assert result.padding == "zeros"
    back = load_file(tmp_path / "back" / "model.safetensors")
    bias = back["vlm.lang_model.lm_head.bias"]
    assert bias.shape == (320,)
    assert torch.equal(bias[:300], model.lm_head.bias[:300])
    assert not bias[300:].any()
    written = read(tmp_path / "back" / "config.json")
    ignored = ("transformers_version", "model_name", "torch_dtype")
    changed = differences(read(source / "config.json"), written)
    assert [change for change in changed if not any(name in change for name in ignored)] == []
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert same_tensors(again, load_file(tmp_path / "trained" / "model.safetensors"))


def test_no_sliding_window(source: Path, tmp_path: Path) -> None:
    config = read(source / "config.json")
    config["text_config"]["sliding_window"] = None
    (source / "config.json").write_text(json.dumps(config))
    convert_checkpoint(source, tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "back")
    assert read(tmp_path / "back" / "config.json")["text_config"]["sliding_window"] is None


def test_original_is_no_source(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not of this package's layout"):
        export_checkpoint(source, tmp_path / "back")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        export_checkpoint(tmp_path, tmp_path / "back")


def test_ours_is_no_source_of_conversion(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "ours")
    with pytest.raises(ValueError, match="xgenmm export"):
        convert_checkpoint(tmp_path / "ours", tmp_path / "out")


def test_rows_of_another_model(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "ours")
    save_file({"lang_model.lm_head.bias": torch.zeros(20)}, tmp_path / "ours" / "original" / "padding.safetensors")
    with pytest.raises(ValueError, match="does not belong to this model"):
        export_checkpoint(tmp_path / "ours", tmp_path / "back")


def test_incomplete_model(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "ours")
    state = load_file(tmp_path / "ours" / "model.safetensors")
    del state["model.resampler.latents"]
    save_file(state, tmp_path / "ours" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.resampler\.latents"):
        export_checkpoint(tmp_path / "ours", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_resized_vocabulary(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "ours")
    config = XGenMMConfig.from_pretrained(tmp_path / "ours")
    config.text_config.vocab_size = 310
    model = XGenMMForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "resized")
    with pytest.raises(ValueError, match="cannot be exported"):
        export_checkpoint(tmp_path / "resized", tmp_path / "back")


def test_writing_onto_something(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "ours")
    with pytest.raises(FileExistsError):
        export_checkpoint(tmp_path / "ours", tmp_path / "ours")


def test_the_embedded_model_there_and_back(tmp_path: Path) -> None:
    """Its resampler has other sizes than the released one; the tensors and the export's config tell them."""
    export_checkpoint(TINY_MODEL, tmp_path / "back")
    result = convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert result.notes == ()
    ours, again = load_file(f"{TINY_MODEL}/model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert same_tensors(ours, again)
    folders = (TINY_MODEL, tmp_path / "again")
    sizes = [XGenMMConfig.from_pretrained(folder).resampler_config.to_dict() for folder in folders]
    assert sizes[0] == sizes[1]
    assert "license: apache-2.0" in (tmp_path / "again" / "README.md").read_text()
