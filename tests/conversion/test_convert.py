"""Whole conversions of the golden checkpoint, in every layout."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from xgenmm_hf.conversion import convert_checkpoint, export_checkpoint
from xgenmm_hf.conversion.files import output_folder
from xgenmm_hf.conversion.writer import split_into_shards
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


TOLERANCE = 1e-5


def logits_of(model: XGenMMForConditionalGeneration, sample: dict, pixels: list[torch.Tensor]) -> torch.Tensor:
    """Runs one golden sample alone; `<image>` (and placeholders after it) stand for all tokens of an image."""
    config = model.config
    lengths = iter(config.resampler_config.num_latents * len(tiles) for tiles in pixels)
    ids = []
    for token in sample["input_ids"]:
        if token == config.image_token_id:
            ids.extend([token] * next(lengths))
        elif token != config.image_placeholder_token_id:
            ids.append(token)
    inputs = {"input_ids": torch.tensor([ids])}
    if pixels:
        inputs["pixel_values"] = torch.cat(pixels)
        inputs["image_sizes"] = torch.tensor([(height, width) for width, height in sample["image_sizes"]])
        inputs["image_num_tiles"] = torch.tensor([len(tiles) for tiles in pixels])
    with torch.no_grad():
        return model(**inputs).logits[0]


def assert_golden(folder: Path, case: Path) -> None:
    """Checks a converted folder against the original's logits."""
    model = XGenMMForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    samples = json.loads((case / "case.json").read_text())["samples"]
    inputs, expected = load_file(case / "inputs.safetensors"), load_file(case / "expected.safetensors")
    for number, sample in enumerate(samples):
        count = len(sample["image_sizes"])
        pixels = [inputs[f"pixels.{number}.{image}"] for image in range(count)]
        logits = logits_of(model, sample, pixels)
        torch.testing.assert_close(logits, expected[f"logits.{number}"], atol=TOLERANCE, rtol=0)


def written_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("case", ["anyres", "base", "sliding"])
def test_logits_are_the_originals(golden: Path, source: Path, tmp_path: Path, case: str) -> None:
    shutil.copyfile(golden / case / "checkpoint" / "config.json", source / "config.json")
    result = convert_checkpoint(source, tmp_path / "out")
    assert result.num_source_tensors == 138
    assert result.num_tensors == 124
    assert result.dtype == "float32"
    assert result.image_mode == ("none" if case == "base" else "anyres")
    assert len(result.dropped) == 11
    assert all(".head." in name for name in result.dropped)
    card = (tmp_path / "out" / "README.md").read_text()
    assert ('prompt = "<image>An image of"' in card) == (case == "base") != ("apply_chat_template" in card)
    assert_golden(tmp_path / "out", golden / case)


def test_shards(golden: Path, sharded_source: Path, tmp_path: Path) -> None:
    calls = []
    result = convert_checkpoint(
        sharded_source, tmp_path / "out", max_shard_size="1MB", progress=lambda *call: calls.append(call)
    )
    assert len(result.shards) > 3
    assert calls[-1] == (result.shards[-1], result.num_bytes, result.num_bytes)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == result.num_bytes
    assert set(index["weight_map"].values()) == set(result.shards)
    assert all((tmp_path / "out" / shard).stat().st_size < 1.1e6 for shard in result.shards)
    assert_golden(tmp_path / "out", golden / "anyres")


def test_state_dict_without_prefix(golden: Path, source: Path, tmp_path: Path, golden_tensors) -> None:
    (source / "model.safetensors").unlink()
    state = {name.removeprefix("vlm."): tensor for name, tensor in golden_tensors.items()}
    torch.save(state, source / "base_model_weight.pt")
    for number, path in enumerate((source, source / "base_model_weight.pt")):
        convert_checkpoint(path, tmp_path / f"out{number}")
        assert_golden(tmp_path / f"out{number}", golden / "anyres")


def test_state_dict_with_its_config_elsewhere(golden: Path, source: Path, tmp_path: Path, golden_tensors) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    torch.save(golden_tensors, alone / "weights.pth")
    convert_checkpoint(
        alone / "weights.pth",
        tmp_path / "out",
        config=source / "config.json",
        vision_config=source / "vision_config.json",
    )
    assert_golden(tmp_path / "out", golden / "anyres")


def test_state_dict_without_a_config_means_the_release(tmp_path: Path, golden_tensors) -> None:
    torch.save(golden_tensors, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="--image-mode"):
        convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out")
    with pytest.raises(ValueError, match=r"fewer than the 32012 tokens"):
        convert_checkpoint(tmp_path / "weights.pth", tmp_path / "out", image_mode="none")


def as_siglip_vision_model(folder: Path) -> None:
    """As 4.57 writes it: names with `vision_model.`. The fixture is of this form."""


def as_later_siglip_vision_model(folder: Path) -> None:
    """As 5.x writes it: no prefix."""
    state = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("vision_model."): t for name, t in state.items()}, folder / "model.safetensors")


def as_whole_siglip(folder: Path) -> None:
    """A text tower beside it, and a config that holds both."""
    state = load_file(folder / "model.safetensors")
    state |= {"text_model.head.weight": torch.zeros(2), "logit_scale": torch.zeros(1), "logit_bias": torch.zeros(1)}
    save_file(state, folder / "model.safetensors")
    tower = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": tower}))


@pytest.mark.parametrize("shape", [as_siglip_vision_model, as_later_siglip_vision_model, as_whole_siglip])
def test_training_checkpoint(
    golden: Path, training_checkpoint: Path, siglip_folder: Path, tmp_path: Path, shape
) -> None:
    shape(siglip_folder)
    (training_checkpoint / "vision_config.json").unlink()
    result = convert_checkpoint(
        training_checkpoint / "checkpoint_3.pt", tmp_path / "out", vision_encoder=siglip_folder
    )
    assert len(result.skipped) == (3 if shape is as_whole_siglip else 0)
    assert_golden(tmp_path / "out", golden / "anyres")


def test_stated_vision_config_comes_first(training_checkpoint: Path, siglip_folder: Path, tmp_path: Path) -> None:
    (siglip_folder / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model", "hidden_size": 7}))
    convert_checkpoint(training_checkpoint, tmp_path / "out", vision_encoder=siglip_folder)
    config = XGenMMConfig.from_pretrained(tmp_path / "out")
    assert config.vision_config.hidden_size == 24


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(source: Path, tmp_path: Path, golden_tensors, dtype: str) -> None:
    result = convert_checkpoint(source, tmp_path / "out", dtype=dtype)
    assert result.dtype == dtype
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {getattr(torch, dtype)}
    latents = golden_tensors["vlm.vision_tokenizer.latents"].to(getattr(torch, dtype))
    assert torch.equal(written["model.resampler.latents"], latents)
    model = XGenMMForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == getattr(torch, dtype)


def test_auto_keeps_mixed_dtypes(source: Path, tmp_path: Path, golden_tensors) -> None:
    mixed = {
        name: tensor.bfloat16() if ".lang_model.model" in name else tensor for name, tensor in golden_tensors.items()
    }
    save_file(mixed, source / "model.safetensors")
    result = convert_checkpoint(source, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert result.dtype == "float32"
    assert written["model.language_model.norm.weight"].dtype == torch.bfloat16
    assert written["lm_head.weight"].dtype == torch.float32


def test_dtypes_are_promoted_where_pieces_differ(source: Path, tmp_path: Path, golden_tensors) -> None:
    narrow = {name: tensor.bfloat16() for name, tensor in golden_tensors.items()}
    added = "vlm.lang_model.model.embed_tokens.additional_embedding.weight"
    save_file({**narrow, added: golden_tensors[added]}, source / "model.safetensors")
    result = convert_checkpoint(source, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    embedding = written["model.language_model.embed_tokens.weight"]
    assert embedding.dtype == torch.float32
    assert torch.equal(embedding[-3:], golden_tensors[added])
    assert written["lm_head.weight"].dtype == torch.bfloat16
    assert result.dtype == "bfloat16"


def test_the_main_dtype_is_that_of_most_numbers(source: Path, tmp_path: Path, golden_tensors) -> None:
    """Few large tensors in float32 outweigh many small ones in bfloat16."""
    mixed = {name: tensor.bfloat16() if tensor.dim() == 1 else tensor for name, tensor in golden_tensors.items()}
    assert sum(tensor.dtype == torch.bfloat16 for tensor in mixed.values()) > len(mixed) / 2
    save_file(mixed, source / "model.safetensors")
    assert convert_checkpoint(source, tmp_path / "out").dtype == "float32"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_values_that_no_model_has_are_reported(source: Path, tmp_path: Path, golden_tensors) -> None:
    odd = dict(golden_tensors)
    odd["vlm.vision_tokenizer.latents"] = torch.full_like(odd["vlm.vision_tokenizer.latents"], torch.nan)
    empty = "vlm.vision_tokenizer.layers.1.0.to_q.weight"
    odd[empty] = torch.zeros_like(odd[empty])
    save_file(odd, source / "model.safetensors")
    notes = "\n".join(convert_checkpoint(source, tmp_path / "out").notes)
    assert "1 tensors hold NaN or infinity (model.resampler.latents)" in notes
    assert "1 matrices hold nothing but zeros (model.resampler.layers.1.attention.q_proj.weight)" in notes
    notes = "\n".join(export_checkpoint(tmp_path / "out", tmp_path / "back").notes)
    assert "vlm.vision_tokenizer.latents" in notes and empty in notes


def test_float16_overflow(source: Path, tmp_path: Path, golden_tensors) -> None:
    name = "vlm.vision_tokenizer.latents"
    save_file({**golden_tensors, name: golden_tensors[name] + 1e6}, source / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{name} holds values beyond float16's range"):
        convert_checkpoint(source, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_side_files(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    result = convert_checkpoint(source, tmp_path / "out")
    out = tmp_path / "out"
    names = written_names(out)
    assert {"config.json", "generation_config.json", "preprocessor_config.json", "README.md", "original"} <= names
    assert {"modeling_xgenmm.py", "configuration_xgenmm.py", "processing_xgenmm.py"} <= names
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["XGenMMForConditionalGeneration"]
    assert {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"} <= set(config["auto_map"])
    assert config["text_config"]["sliding_window"] == 2048
    assert config["text_config"]["rope_theta"] == 10000.0
    assert config["text_config"]["rope_parameters"]["rope_theta"] == 10000.0
    assert "license: apache-2.0" in (out / "README.md").read_text()
    assert written_names(out / "original") == {"config.json", "padding.safetensors"}
    assert len(result.notes) == 1
    assert "--tokenizer" in result.notes[0]
    assert stat.S_IMODE(out.stat().st_mode) & 0o500 == 0o500


def test_released_side_files(real_checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """The released tokenizer needs its own number of tokens, so the weights here are made to fit it."""
    from xgenmm_hf.conversion.tensors import plan_export
    from xgenmm_hf.conversion.verify import expected_tensors

    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"num_key_value_heads": 1, "initial_tokenizer_len": 32012, "model_type": "phi3", "sliding_window": 2047}
    original = {
        "model_type": "xgenmm",
        "text_config": text,
        "vision_encoder_config": {"image_aspect_ratio": "anyres"},
        "vision_tokenizer_config": {"vis_feature_dim": 24, "num_vis_tokens": 8},
    }
    tower = json.loads((source / "vision_config.json").read_text())
    one_tile = {**original, "vision_encoder_config": {"image_aspect_ratio": "none"}}
    ours = expected_tensors(XGenMMConfig.from_dict({**one_tile, "vision_config": tower}))
    plan = plan_export(ours, {}, 32012, "transformers")
    released = tmp_path / "released"
    released.mkdir()
    save_file({target.name: torch.zeros(target.shape) for target in plan.targets}, released / "model.safetensors")
    for path in real_checkpoint.iterdir():
        if path.suffix == ".json" and "index" not in path.name:
            shutil.copyfile(path, released / path.name)
    (released / "config.json").write_text(json.dumps(original))
    (released / "vision_config.json").write_text(json.dumps(tower))
    preprocessor = json.loads((released / "preprocessor_config.json").read_text())
    (released / "preprocessor_config.json").write_text(json.dumps({**preprocessor, "size": [62, 62]}))
    result = convert_checkpoint(released, tmp_path / "out")
    assert result.image_mode == "none"
    assert len(result.notes) == 1 and "nothing but zeros" in result.notes[0]
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [32007, 32000]
    assert generation["pad_token_id"] == 32011

    from transformers import AutoTokenizer

    import xgenmm_hf.auto  # noqa: F401
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor

    for fast in (True, False):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", use_fast=fast, legacy=False)
        assert tokenizer.convert_tokens_to_ids(["<image>", "<image placeholder>", "<|endofchunk|>"]) == [
            32012,
            32013,
            32014,
        ]
    processor = XGenMMProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_processor.image_aspect_ratio == "none"
    assert processor.num_latents == 8

    export_checkpoint(tmp_path / "out", tmp_path / "back")
    for name in ("generation_config.json", "preprocessor_config.json"):
        assert json.loads((tmp_path / "back" / name).read_text()) == json.loads((released / name).read_text())
    back = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert back["tokenizer_class"] == "LlamaTokenizer"
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_tokenizer_of_another_model(real_checkpoint: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32012 tokens"):
        convert_checkpoint(source, tmp_path / "out", tokenizer=real_checkpoint)


def test_interruption_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def interrupt(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, tmp_path / "out", progress=interrupt)
    assert written_names(tmp_path) == {"source"}


def test_someone_else_made_the_folder_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), output_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("theirs")
    assert (tmp_path / "out" / "file").read_text() == "theirs"
    assert written_names(tmp_path) == {"out"}


def test_written_files_are_read_by_the_library(source: Path, tmp_path: Path, golden_tensors) -> None:
    """Odd sizes in mixed dtypes keep every tensor aligned."""
    odd = {
        name: tensor.bfloat16() if tensor.dim() == 1 and tensor.numel() % 2 else tensor
        for name, tensor in golden_tensors.items()
    }
    save_file(odd, source / "model.safetensors")
    convert_checkpoint(source, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
        assert len(list(handle.keys())) == 124


@pytest.mark.parametrize(("size", "files"), [("5GB", 1), ("1.5 kb", 2), (800, 3), ("400", 6)])
def test_sizes(size: int | str, files: int) -> None:
    written = {str(number): torch.empty(100, device="meta") for number in range(6)}
    shards = split_into_shards(written, size)
    assert len(shards) == files
    assert [name for shard in shards.values() for name in shard] == list(written)


@pytest.mark.parametrize("size", ["", "x", "-1GB", "0", "0 GB", "5XB", "GB"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        split_into_shards({}, size)


def test_unknown_dtype(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of auto, float32"):
        convert_checkpoint(source, tmp_path / "out", dtype="int8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_may_not_be_written(source: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        convert_checkpoint(source, locked / "out")
