"""Two processes with FSDP2 or DDP train like one, save what loads anywhere, and resume from it."""

import json
import os
import shutil
import socket
from pathlib import Path

import forked
import pytest
from run_rows import ON_CPU, chat_rows, save_rows

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.training.run import run_stage


SCRIPT = Path(__file__).with_name("fsdp2_on_cpu.py")
STEPS = 4
LOAD_ANYWHERE = """
import sys
sys.modules["xgenmm_hf"] = None  # as where the package is not installed
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__name__ == "XGenMMForConditionalGeneration", type(model)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
from PIL import Image
image = {"type": "image", "image": Image.new("RGB", (64, 48))}
turn = {"role": "user", "content": [image, {"type": "text", "text": "Hi"}]}
inputs = processor.apply_chat_template([turn], tokenize=True, return_dict=True, return_tensors="pt")
with torch.no_grad():
    assert model(**inputs).logits.isfinite().all()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def options(processes: int, rows: Path, output: Path) -> list[str]:
    run = ["--model_name_or_path", TINY_MODEL, "--mixture", str(rows), "--output_dir", str(output)]
    # Two rows per step. Not grouped: in some steps one rank has an image and the other has none, in one neither has.
    size = ["--max_steps", str(STEPS), "--per_device_train_batch_size", str(2 // processes), "--save_steps", "2"]
    rest = ["--group_by_modality_length", "false", "--learning_rate", "1e-4", "--seed", "1"]
    return [*run, *size, *rest, *ON_CPU]


def train_here(rows: Path, output: Path) -> list[float]:
    """Trains in this process; returns the losses."""
    run_stage("sft", options(1, rows, output))
    return losses_of(output)


def losses_of(output: Path) -> list[float]:
    state = json.loads((output / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def train_on_two(rows: Path, output: Path) -> dict:
    """Trains on two processes with FSDP2; returns what rank 0 recorded."""
    facts = output.with_suffix(".jsonl")
    launch([str(SCRIPT), str(facts)], rows, output)
    return json.loads(facts.read_text().splitlines()[-1])


def launch(program: list[str], rows: Path, output: Path) -> None:
    for rank in forked.run_ranks([*program, "sft", *options(2, rows, output)], 2, free_port()):
        assert rank.returncode == 0, rank.stderr[-3000:]


@pytest.mark.slow
def test_ddp_with_images_on_one_rank_only_trains_like_one(tmp_path):
    rows = save_rows(chat_rows(8, text_only_every=2), tmp_path / "rows")
    one, output = train_here(rows, tmp_path / "one"), tmp_path / "two"
    launch(["-m", "xgenmm_hf.training"], rows, output)
    assert losses_of(output) == pytest.approx(one, rel=1e-5)
    # another number of processes would see other rows
    with pytest.raises(ValueError, match=r"world_size 2, now 1.*which resuming cannot apply"):
        run_stage("sft", [*options(1, rows, output), "--max_steps", str(STEPS + 2)])


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path):
    rows = save_rows(chat_rows(8, text_only_every=2), tmp_path / "rows")
    one, two = train_here(rows, tmp_path / "one"), train_on_two(rows, tmp_path / "two")
    assert two["class"].startswith("FSDP")
    assert two["dtensors"] == two["parameters"]
    assert two["values_here"] < 0.6 * two["values"]
    assert list(two["losses"]) == [str(step) for step in range(1, STEPS + 1)]
    assert list(two["losses"].values()) == pytest.approx(one, rel=1e-5)

    shutil.rmtree(tmp_path / "two" / "checkpoint-4")
    resumed = train_on_two(rows, tmp_path / "two")
    assert list(resumed["losses"].values()) == pytest.approx(list(two["losses"].values()), abs=1e-6)

    for folder in (tmp_path / "two", tmp_path / "two" / "checkpoint-2"):
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == ["XGenMMForConditionalGeneration"]
        assert config["auto_map"]["AutoModelForImageTextToText"] == "modeling_xgenmm.XGenMMForConditionalGeneration"
        assert not (folder / "_fully_shard.py").exists()
    fresh = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = forked.run(["-c", LOAD_ANYWHERE, tmp_path / "two"], env=fresh, server=forked.others)
    assert done.returncode == 0, done.stderr[-3000:]
