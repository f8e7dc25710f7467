"""`xgenmm info`: facts without loading weights."""

import json
import shutil
from pathlib import Path

from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL, load
from xgenmm_hf.cli.app import app
from xgenmm_hf.inference.provenance import provenance


ORIGINAL = {
    "model_type": "xgenmm",
    "text_config": {"initial_tokenizer_len": 32012, "model_type": "phi3"},
    "vision_encoder_config": {"image_aspect_ratio": "anyres", "model_type": "xgenmm_vision_encoder"},
    "vision_tokenizer_config": {"model_type": "xgenmm_vision_tokenizer"},
}


def facts_of(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["info", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_embedded_model():
    facts = facts_of(TINY_MODEL, "--image-size", "100x60")
    counts = facts["parameters"]
    assert counts["total"] == sum(count for part, count in counts.items() if part != "total")
    assert sum(facts["weights"]["dtypes"].values()) > 10
    image = facts["images"]["image"]
    assert (image["width"], image["height"]) == (100, 60)
    assert image["tokens"] == image["tiles"] * facts["images"]["tokens_per_tile"]


def test_the_text_form_says_the_same():
    facts = facts_of(TINY_MODEL, "--image-size", "100x60")
    text = CliRunner().invoke(app, ["info", TINY_MODEL, "--image-size", "100x60"]).stdout
    assert f"{facts['parameters']['total']:,}" in text
    assert f"costs {facts['images']['image']['tokens']} tokens" in text


def test_a_full_size_original_from_its_config_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL))
    facts = facts_of(str(tmp_path), "--image-size", "1280x720")
    assert facts["layout"] == "original"
    assert "holds no weights" in facts["weights"]["problem"]
    assert facts["context"] == 4096
    assert facts["computes_in"].startswith(("float32 (", "bfloat16 ("))
    assert 4.3e9 < facts["parameters"]["total"] < 4.4e9
    # Neither file says whether this checkpoint tiles its images.
    assert facts["images"]["mode"] is None
    assert "image" not in facts["images"]


def test_the_layout_of_a_repository_is_that_of_its_config(tmp_path, monkeypatch):
    monkeypatch.setattr("xgenmm_hf.inference.info.is_local", lambda source: False)
    assert facts_of(TINY_MODEL)["layout"] == "xgenmm-hf"
    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL))
    facts = facts_of(str(tmp_path))
    assert (facts["layout"], facts["weights"]) == ("original", None)


def test_the_preprocessor_of_an_original_decides_the_mode(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL))
    (tmp_path / "preprocessor_config.json").write_text('{"grids": null}')
    one_tile = facts_of(str(tmp_path), "--image-size", "1280x720")["images"]
    assert (one_tile["mode"], one_tile["image"]["tokens"]) == ("none", 128)
    (tmp_path / "preprocessor_config.json").write_text('{"grids": [[384, 768], [768, 384], [768, 768]]}')
    tiled = facts_of(str(tmp_path), "--image-size", "1280x720")["images"]
    assert (tiled["mode"], tiled["image"]["tiles"], tiled["image"]["tokens"]) == ("anyres", 5, 640)


def test_broken_folders_are_one_line(tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "checkpoint"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = CliRunner().invoke(app, ["info", str(folder)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "truncated" in result.stderr
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    result = CliRunner().invoke(app, ["info", str(folder)])
    assert result.exit_code == 1
    assert "'../secret.safetensors'" in result.stderr
    assert CliRunner().invoke(app, ["info", str(tmp_path / "nowhere")]).exit_code == 1


def test_provenance_names_weights_and_processor_by_what_is_in_them(tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "checkpoint"))
    found = facts_of(str(folder), "--provenance")["provenance"]
    assert list(found) == ["checkpoint", "processor", "dtype", "device", "attention", "versions"]
    assert found["attention"] == "sdpa" and found["dtype"] in ("float32", "bfloat16")
    assert {"python", "xgenmm-hf", "torch", "transformers"} <= found["versions"].keys()
    text = CliRunner().invoke(app, ["info", str(folder), "--provenance"]).stdout
    assert found["processor"] in text and found["checkpoint"]["sha256"] in text
    assert "provenance" not in facts_of(str(folder))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    other = facts_of(str(folder), "--provenance")["provenance"]
    assert other["processor"] != found["processor"] and other["checkpoint"] == found["checkpoint"]


def test_provenance_of_a_model_is_that_of_what_was_loaded():
    model = load(TINY_MODEL, dtype="bfloat16", device="cpu").model
    found = provenance(TINY_MODEL, model)
    assert (found["dtype"], found["device"], found["attention"]) == ("bfloat16", "cpu", "sdpa")
    model.model.language_model.set_attn_implementation("eager")
    assert provenance(TINY_MODEL, model)["attention"] == "vision tower sdpa, resampler sdpa, language model eager"
    assert provenance("org/name", checkpoint={"model": "org/name"})["processor"] is None
