"""A run that is killed and started again goes on as if nothing had happened."""

import json
import signal
from pathlib import Path

import forked
import pytest
from run_rows import ON_CPU, chat_rows, save_rows

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.training.checkpoints import is_complete


SCRIPT = Path(__file__).parents[2] / "support" / "train_until_killed.py"
STEPS = 7
# The dropout of LoRA draws random numbers, which must go on where they were.
LORA = ["--use_peft", "true", "--lora_dropout", "0.1", "--lora_resampler", "true", "--learning_rate", "1e-3"]


def start(moment: str, step: int, rows: Path, output: Path, *options: str) -> int:
    run = ["sft", "--model_name_or_path", TINY_MODEL, "--mixture", str(rows), "--output_dir", str(output)]
    # Seven steps over four a pass: the run is killed in one pass and ends in the next.
    size = ["--max_steps", str(STEPS), "--per_device_train_batch_size", "2", "--save_steps", "2"]
    return forked.run([SCRIPT, moment, step, *run, *size, *ON_CPU, *options]).returncode


def losses(output: Path) -> dict[int, tuple[float, list[str]]]:
    """Returns loss and rows of each step; of a step that ran twice the last time counts."""
    lines = [json.loads(line) for line in (output / "losses.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["rows"]) for line in lines}


@pytest.mark.slow
def test_killed_runs_go_on_with_the_same_rows_and_losses(tmp_path):
    rows = save_rows(chat_rows(8), tmp_path / "rows")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start("never", 0, rows, whole, *LORA) == 0
    # Once in the middle of writing a checkpoint, once between two checkpoints, in the second pass over the rows.
    assert start("saving", 4, rows, killed, *LORA) == -signal.SIGKILL
    half_written = killed / "checkpoint-4"
    assert (half_written / "adapter_model.safetensors").is_file()
    assert not is_complete(half_written)
    assert start("step", 5, rows, killed, *LORA) == -signal.SIGKILL
    assert is_complete(half_written)
    assert start("never", 0, rows, killed, *LORA) == 0
    assert_same(killed, whole)


def assert_same(killed: Path, whole: Path) -> None:
    expected, resumed = losses(whole), losses(killed)
    assert list(resumed) == list(expected) == list(range(1, STEPS + 1))
    for number, (loss, ids) in expected.items():
        assert resumed[number][1] == ids
        assert resumed[number][0] == pytest.approx(loss, abs=1e-6)
