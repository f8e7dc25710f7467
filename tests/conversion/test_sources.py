"""Broken, hostile and foreign files: one clear sentence each, and nothing executed."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xgenmm_hf.conversion import convert_checkpoint
from xgenmm_hf.conversion.files import UNFINISHED
from xgenmm_hf.conversion.sources import WeightFile, Weights, locate, weight_files
from xgenmm_hf.inference.source import resolve_model


class Explosive:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def fails(source: Path, out: Path, error: type[Exception], match: str, **options) -> None:
    """Checks that a conversion stops with one sentence and leaves nothing behind."""
    with pytest.raises(error, match=match) as caught:
        convert_checkpoint(source, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(UNFINISHED)]


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folder_without_weights(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").unlink()
    fails(source, tmp_path / "out", FileNotFoundError, "holds no weights")


def test_nothing_there(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", tmp_path / "out", FileNotFoundError, "no file or folder")


@pytest.mark.parametrize("name", ["a/b/c", "", "owner/na me", "-"])
def test_names_that_are_no_repo(name: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError)):
        weight_files(locate(name) / "x")


def test_download_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise RuntimeError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"owner/name is no file .* \(no route\)"):
        locate("owner/name")


def test_repo_id_is_downloaded(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def download(repo_id: str, allow_patterns: list[str]) -> str:
        asked.append((repo_id, "*.py" in allow_patterns))
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    convert_checkpoint("owner/name", tmp_path / "out")
    assert asked == [("owner/name", False)]


def test_missing_shard(sharded_source: Path, tmp_path: Path) -> None:
    (sharded_source / "model-00002-of-00002.safetensors").unlink()
    fails(sharded_source, tmp_path / "out", FileNotFoundError, "not there: model-00002-of-00002")


@pytest.mark.parametrize("size", [0, 5, 200, 100_000])
def test_truncated_shard(sharded_source: Path, tmp_path: Path, size: int) -> None:
    shard = sharded_source / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:size])
    fails(sharded_source, tmp_path / "out", ValueError, "model-00001-of-00002.safetensors is (truncated|empty)")


def test_foreign_shard(sharded_source: Path, tmp_path: Path) -> None:
    save_file({"model.layers.0.weight": torch.zeros(2)}, sharded_source / "model-00001-of-00002.safetensors")
    fails(sharded_source, tmp_path / "out", ValueError, "that it does not hold .*lang_model")


def test_shard_with_more_than_the_index_knows(sharded_source: Path, tmp_path: Path) -> None:
    path = sharded_source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["vlm.vision_tokenizer.latents"]
    path.write_text(json.dumps(index))
    fails(sharded_source, tmp_path / "out", ValueError, "does not know .vlm.vision_tokenizer.latents")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "\udce4"],
)
def test_broken_index(sharded_source: Path, tmp_path: Path, content: str) -> None:
    path = sharded_source / "model.safetensors.index.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    fails(sharded_source, tmp_path / "out", ValueError, "index.json")


@pytest.mark.parametrize("entry", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x", "..", ""])
def test_index_that_points_outside(sharded_source: Path, tmp_path: Path, entry: str) -> None:
    save_file({"vlm.vision_tokenizer.latents": torch.zeros(2)}, tmp_path / "secret.safetensors")
    path = sharded_source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["vlm.vision_tokenizer.latents"] = entry
    path.write_text(json.dumps(index))
    fails(sharded_source, tmp_path / "out", ValueError, "points outside its folder")


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_broken_config(source: Path, tmp_path: Path, content: str) -> None:
    (source / "config.json").write_text(content)
    fails(source, tmp_path / "out", ValueError, "config.json")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "llama"}, "describes a 'llama' model"),
        ({"resampler_config": {}}, "this package's layout already"),
        ({"text_config": [1]}, "text_config must be a JSON object"),
        ({"text_config": {"model_type": "no such model"}}, "no such model"),
        ({"text_config": {"hidden_size": "wide"}}, "value that no model can have|No model can be built"),
        ({"text_config": {"initial_tokenizer_len": "many"}}, "value that no model can have"),
        (
            {"vision_tokenizer_config": {"vis_feature_dim": 24, "num_vis_tokens": -4}},
            "No model can be built|num_latents",
        ),
    ],
)
def test_impossible_config(source: Path, tmp_path: Path, changes: dict, match: str) -> None:
    edit_json(source / "config.json", **changes)
    fails(source, tmp_path / "out", ValueError, match)


def test_config_of_another_size(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (source / "config.json").write_text(json.dumps(config))
    fails(source, tmp_path / "out", ValueError, r"layers\.2\.")


def test_malicious_pickle(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    for number, write in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value)))):
        path = tmp_path / f"base_model_weight_{number}.pt"
        write({"model_state_dict": {"a": Explosive(trap)}}, path)
        fails(path, tmp_path / "out", ValueError, "was not executed", image_mode="none")
        assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no pickle at all", b"\x80\x02}q\x00", b"\x00" * 64])
def test_broken_pickle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    fails(path, tmp_path / "out", ValueError, "weights.pt", image_mode="none")


def test_truncated_pickle(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    fails(path, tmp_path / "out", ValueError, "weights.pt", image_mode="none")


@pytest.mark.parametrize("content", [{}, [1], torch.zeros(2), {"a": 3}, {"model_state_dict": {"a": "text"}}])
def test_pickle_without_tensors(tmp_path: Path, content) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"holds no state dict|holds entries that are no tensors"):
        WeightFile(path).entries()


def test_pickle_of_the_old_format(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.arange(4.0)}, path, _use_new_zipfile_serialization=False)
    assert WeightFile(path).load("a").tolist() == [0, 1, 2, 3]


def test_unknown_weight_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"x")
    fails(path, tmp_path / "out", ValueError, "is no weight file")


def test_several_weight_files(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").unlink()
    for name in ("a.pt", "b.pt"):
        torch.save({"a": torch.zeros(1)}, source / name)
    fails(source, tmp_path / "out", ValueError, r"several weight files and no index \(a.pt, b.pt\)")


def test_header_that_claims_too_much(source: Path, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    for length in (len(header), 1 << 60):
        (source / "model.safetensors").write_bytes(struct.pack("<Q", length) + header + b"\0" * 8)
        fails(source, tmp_path / "out", ValueError, "truncated or not a safetensors file")


def test_quantised_weights(source: Path, tmp_path: Path, golden_tensors: dict[str, torch.Tensor]) -> None:
    name = "vlm.vision_tokenizer.latents"
    save_file({**golden_tensors, name: golden_tensors[name].to(torch.int8)}, source / "model.safetensors")
    fails(source, tmp_path / "out", ValueError, rf"hold no floating-point numbers: {name} \(int8\)")


def test_tower_that_does_not_fit(source: Path, tmp_path: Path) -> None:
    edit_json(source / "vision_config.json", intermediate_size=50)
    fails(source, tmp_path / "out", ValueError, "The vision tower does not fit")
    edit_json(source / "vision_config.json", hidden_size=32)
    fails(source, tmp_path / "out", ValueError, "32 wide")
    edit_json(source / "vision_config.json", model_type="vit")
    fails(source, tmp_path / "out", ValueError, "type 'vit'")


def test_tower_given_twice(source: Path, siglip_folder: Path, tmp_path: Path) -> None:
    fails(source, tmp_path / "out", ValueError, "holds a vision tower already", vision_encoder=siglip_folder)


def test_tower_left_out(training_checkpoint: Path, tmp_path: Path) -> None:
    fails(training_checkpoint, tmp_path / "out", ValueError, "--vision-encoder")


def test_folder_without_a_tower(training_checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file({"text_model.x": torch.zeros(1), "encoder.y": torch.zeros(1)}, other / "model.safetensors")
    fails(training_checkpoint, tmp_path / "out", ValueError, "holds no vision tower", vision_encoder=other)


def test_writing_onto_something(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        convert_checkpoint(source, file)
    assert file.read_text() == "mine"
    with pytest.raises(FileExistsError, match="not empty"):
        convert_checkpoint(source, source)


def test_an_adapter_is_not_a_model(source: Path, tmp_path: Path, golden_tensors: dict[str, torch.Tensor]) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/base"}))
    save_file({"a": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    fails(adapter, tmp_path / "out", ValueError, r"holds a LoRA adapter.*load someone/base.*merge_and_unload")
    with pytest.raises(ValueError, match="holds a LoRA adapter"):
        resolve_model(adapter)
    name = "vlm.lang_model.model.layers.0.self_attn.qkv_proj"
    unmerged = {f"{name}.lora_{part}.default.weight": torch.zeros(2, 2) for part in "AB"}
    save_file({**golden_tensors, **unmerged}, source / "model.safetensors")
    fails(source, tmp_path / "out", ValueError, r"2 tensors of an adapter that is not merged.*merge_and_unload")


def test_a_cache_folder_names_its_snapshot(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    (cache / "snapshots").mkdir(parents=True)
    source.rename(cache / "snapshots" / "0123abc")
    fails(cache, tmp_path / "out", ValueError, r"name the snapshot in it: .*models--owner--name/snapshots/0123abc\.")
    with pytest.raises(ValueError, match="name the snapshot in it"):
        resolve_model(cache)


def test_sparse_and_meta_tensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    fails(path, tmp_path / "out", ValueError, r"holds sparse tensors: a .*to_dense", image_mode="none")
    torch.save({"a": torch.zeros(3, device="meta")}, path)
    fails(path, tmp_path / "out", ValueError, r"without values \(meta device\): a;", image_mode="none")


def test_long_lists_are_five_names_and_a_count(source: Path, tmp_path: Path, golden_tensors) -> None:
    kept = {name: tensor for name, tensor in golden_tensors.items() if ".vision_tokenizer." not in name}
    save_file(kept, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"tensors of the model are not in the checkpoint .* and \d+ more") as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert str(caught.value).count("model.resampler.") == 5


def test_same_name_in_two_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"a is in both .*one\.safetensors and .*two\.pt"):
        Weights([WeightFile(tmp_path / "one.safetensors"), WeightFile(tmp_path / "two.pt")])
