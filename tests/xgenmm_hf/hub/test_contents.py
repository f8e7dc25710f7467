"""What of a folder goes along, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from xgenmm_hf.hub.contents import collect, size_of
from xgenmm_hf.modeling.remote_code_xgenmm import AUTO_MAP, copy_remote_code


def test_a_checkpoint_goes_along_with_its_code_and_nothing_else(folder, tmp_path):
    for stray in (
        "optimizer.pt",
        "training_args.bin",
        ".env",
        "checkpoint-10/model.safetensors",
        "trainer_state.json",
    ):
        (folder / stray).parent.mkdir(exist_ok=True)
        (folder / stray).write_text("stays here")
    (folder / "original").mkdir()
    (folder / "original" / "config.json").write_text("{}")
    files, left_out = collect(folder)
    code = set(copy_remote_code(tmp_path))
    assert code | {"config.json", "model.safetensors", "tokenizer.json", "original/config.json"} <= files.keys()
    assert not any(name.startswith("checkpoint-") or name.endswith((".pt", ".bin")) for name in files)
    assert set(left_out) == {
        ".env", "checkpoint-10/model.safetensors", "optimizer.pt", "trainer_state.json", "training_args.bin"
    }  # fmt: skip


def test_old_code_in_the_folder_is_replaced_by_this_packages(folder, tmp_path):
    (folder / "modeling_xgenmm.py").write_text("old")
    copy_remote_code(tmp_path)
    files, _ = collect(folder)
    assert files["modeling_xgenmm.py"] == (tmp_path / "modeling_xgenmm.py").read_bytes()


def test_a_config_without_the_code_gets_it(folder):
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields.pop("auto_map", None)
    path.write_text(json.dumps(fields))
    config = collect(folder)[0]["config.json"]
    assert json.loads(config) == {**fields, "auto_map": AUTO_MAP}
    assert size_of(config) == len(config)
    assert json.loads(path.read_text()) == fields


def test_weights_that_do_not_fit_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.bias"] = weights["lm_head.bias"][:-1].clone()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"do not fit its config\.json .*lm_head\.bias"):
        collect(folder)


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is no safetensors file"):
        collect(folder)


def test_missing_parts_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        collect(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        collect(folder)


def test_the_original_layout_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "xgenmm", "vision_encoder_config": {}}))
    with pytest.raises(ValueError, match="xgenmm convert"):
        collect(folder)


def test_an_adapter_goes_without_config_and_whole_model(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/base"}))
    with pytest.raises(FileNotFoundError, match="adapter_model"):
        collect(folder)
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    files, _ = collect(folder)
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json"} <= files.keys()
    assert not {"model.safetensors", "config.json"} & files.keys()
