"""`xgenmm ask` on the embedded model, and everything that can be wrong with its input."""

import importlib.util
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from typer.testing import CliRunner

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL
from xgenmm_hf.cli.app import app


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "red.png"
    Image.new("RGB", (100, 60), (200, 10, 10)).save(path)
    return str(path)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A copy of the embedded checkpoint that a test may spoil."""
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "checkpoint"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to reach another machine fails the test."""

    def refuse(self, address):
        raise AssertionError(f"network access to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(*arguments: str):
    return CliRunner().invoke(app, ["ask", "--max-new-tokens", "6", *arguments])


def error_of(*arguments: str) -> str:
    """Returns the one line that a failing call prints."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_streamed_and_json_answers_agree(image):
    streamed = run(image, "--prompt", "What is this?")
    assert streamed.exit_code == 0, streamed.output
    assert streamed.stderr == ""
    record = json.loads(run(image, "--prompt", "What is this?", "--json").stdout)
    assert record["text"] == streamed.stdout.strip()
    assert record["images"] == [image]
    assert 0 < record["new_tokens"] <= 6
    assert record["image_tokens"] > 0
    assert record["prompt_tokens"] > record["image_tokens"]


def test_every_image_costs_tokens(image):
    one, two = (json.loads(run(*[image] * count, "--json").stdout) for count in (1, 2))
    assert two["image_tokens"] == 2 * one["image_tokens"]


def test_no_image_at_all(image):
    assert json.loads(run("--prompt", "What is this?", "--json").stdout)["image_tokens"] == 0


def test_a_system_turn_is_part_of_the_prompt(image):
    plain, short, released = (
        json.loads(run(image, "--json", "--system", system).stdout) for system in ("none", "a", "released")
    )
    assert plain["system"] == ""
    assert plain["prompt_tokens"] < short["prompt_tokens"] < released["prompt_tokens"]
    own = json.loads(run(image, "--json").stdout)
    assert (own["system"], own["prompt_tokens"]) == (None, released["prompt_tokens"])


def test_an_image_token_typed_by_the_user_is_text(image):
    one = json.loads(run(image, "--prompt", "a", "--json").stdout)
    typed = json.loads(run(image, "--prompt", "<image> a <|end|>", "--json").stdout)
    assert typed["image_tokens"] == one["image_tokens"]


def test_bad_images(image, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    assert "missing.png" in error_of(str(tmp_path / "missing.png"))
    assert "empty" in error_of(image, str(tmp_path / "empty.png"))
    assert "not an image" in error_of(str(tmp_path / "text.png"))


def test_unknown_models(image, tmp_path, checkpoint):
    assert "There is no model at" in error_of(image, "--model", str(tmp_path / "nowhere"))
    assert "There is no model at" in error_of(image, "--model", "nowhere")
    assert "is a file" in error_of(image, "--model", image)
    assert "no config.json" in error_of(image, "--model", str(tmp_path))
    (checkpoint / "config.json").write_text("{")
    assert "not valid JSON" in error_of(image, "--model", str(checkpoint))
    (checkpoint / "config.json").write_text('{"model_type": "llava"}')
    assert "'llava'" in error_of(image, "--model", str(checkpoint))
    (checkpoint / "config.json").write_text('{"model_type": "xgenmm", "vision_encoder_config": {}}')
    assert "xgenmm convert" in error_of(image, "--model", str(checkpoint))


def test_a_hub_repository_that_cannot_be_reached_is_one_line(image):
    assert "some-organisation/no-such-model" in error_of(image, "--model", "some-organisation/no-such-model")


def test_missing_and_damaged_weights(image, checkpoint):
    weights = checkpoint / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    assert "model.safetensors" in error_of(image, "--model", str(checkpoint))
    weights.write_bytes(b"")
    assert "empty" in error_of(image, "--model", str(checkpoint))
    weights.unlink()
    assert "no weights" in error_of(image, "--model", str(checkpoint))
    index = checkpoint / "model.safetensors.index.json"
    for name, part in (("../a.safetensors", "outside"), ("a.safetensors", "not there")):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": name}}))
        assert part in error_of(image, "--model", str(checkpoint))
    index.write_text("[")
    assert "not valid JSON" in error_of(image, "--model", str(checkpoint))


def test_foreign_weights_are_not_replaced_by_random_ones(image, checkpoint):
    weights = checkpoint / "model.safetensors"
    tensors = load_tensors(weights.read_bytes())  # not mapped: the file is written over
    save_file({"foreign": torch.ones(2)}, weights, metadata={"format": "pt"})
    assert "missing" in error_of(image, "--model", str(checkpoint))
    name = "model.resampler.latents"
    save_file({**tensors, name: torch.ones(3, 3)}, weights, metadata={"format": "pt"})
    assert name in error_of(image, "--model", str(checkpoint))
    tensors.pop(name)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert name in error_of(image, "--model", str(checkpoint))


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_missing_and_damaged_processor_files(image, checkpoint, name):
    (checkpoint / name).unlink()
    assert str(checkpoint) in error_of(image, "--model", str(checkpoint))
    (checkpoint / name).write_text("{")
    assert str(checkpoint) in error_of(image, "--model", str(checkpoint))


def test_text_over_the_context(image):
    assert "context" in error_of(image, "--prompt", "word " * 20000)


def test_unknown_device(image):
    assert "--device cpu" in error_of(image, "--device", "abacus")


def test_a_question_without_its_option(image):
    assert "write a question as --prompt (-p)" in error_of(image, "What is this?")


def test_addresses_need_an_option(image):
    assert "--allow-remote" in error_of("https://example.com/a.png")


def test_an_image_on_stdin(image):
    expected = run(image, "--prompt", "What is this?").stdout
    result = CliRunner().invoke(
        app, ["ask", "--max-new-tokens", "6", "-", "--prompt", "What is this?"], input=Path(image).read_bytes()
    )
    assert result.stdout == expected


def test_drawn_answers_follow_the_seed(image):
    options = (image, "--temperature", "5", "--top-p", "0.99", "--seed")
    assert run(*options, "1").stdout == run(*options, "1").stdout
    assert len({run(*options, str(seed)).stdout for seed in range(4)}) > 1


def test_an_answer_ends_before_a_text(image):
    whole = json.loads(run(image, "--json").stdout)["text"]
    mark = whole.split()[-1]
    cut = json.loads(run(image, "--json", "--stop", mark).stdout)["text"]
    assert cut == whole.split(mark)[0].strip()


def test_the_image_mode(image):
    one, several = (json.loads(run(image, "--json", "--image-mode", mode).stdout) for mode in ("none", "anyres"))
    assert one["image_tokens"] < several["image_tokens"]


def test_examples_from_a_file(image, tmp_path):
    (tmp_path / "shots.jsonl").write_text(json.dumps({"image": image, "text": "A red image."}) + "\n")
    shots = ("--shots", str(tmp_path / "shots.jsonl"))
    answer = json.loads(run(image, "--json", *shots, "--model", TINY_BASE_MODEL).stdout)
    assert answer["prompt"] == "" and answer["image_tokens"] > 0
    assert "instruct model" in error_of(image, *shots)


def test_loading_in_fewer_bits(image, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name))
        assert "pip install 'xgenmm-hf[quant]'" in error_of(image, "--load-in", "4bit")
    assert run(image, "--load-in", "3bit").exit_code == 2
    pytest.importorskip("bitsandbytes")
    from bitsandbytes import nn as quantised

    from xgenmm_hf import load

    for bits, kind in (("4bit", quantised.Linear4bit), ("8bit", quantised.Linear8bitLt)):
        loaded = load(TINY_MODEL, device="cpu", load_in=bits)
        names = [name for name, module in loaded.model.named_modules() if isinstance(module, kind)]
        assert names and all(name.startswith("model.language_model.layers.") for name in names)
        assert bits in loaded.dtype
        assert run(image, "--load-in", bits, "--device", "cpu").exit_code == 0
