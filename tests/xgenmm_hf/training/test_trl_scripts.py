"""TRL's commands, which know only TRL and the Auto classes, run on our checkpoints through `xgenmm run`."""

from pathlib import Path

import forked
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from run_rows import ON_CPU, preference_rows
from safetensors.torch import load_file

from xgenmm_hf import TINY_MODEL


PARTS = [{"type": Value("string"), "text": Value("string")}]
MESSAGES = [{"role": Value("string"), "content": PARTS}]


def save_parquet(folder: Path, columns: list[str]) -> Path:
    """Saves rows as a Hub repository would hold them: one parquet file a split, images as `Image`."""
    rows = preference_rows(4)
    for row in rows:
        row["messages"] = [*row["prompt"], *row["chosen"]]
    features = Features({"images": [Image()], **dict.fromkeys(columns, MESSAGES)})
    kept = [{name: row[name] for name in ("images", *columns)} for row in rows]
    folder.mkdir()
    DatasetDict(train=Dataset.from_list(kept, features=features))["train"].to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "columns", "options"),
    [
        ("sft", ["messages"], ["--max_length", "none"]),
        ("dpo", ["prompt", "chosen", "rejected"], ["--use_peft", "--lora_target_modules", "qkv_proj", "o_proj"]),
    ],
)
def test_command_of_trl_runs_unchanged(verb, columns, options, tmp_path):
    out = tmp_path / "out"
    given = ["--dataset_name", str(save_parquet(tmp_path / "data", columns)), "--model_name_or_path", TINY_MODEL]
    given += ["--output_dir", str(out), "--max_steps", "2", "--per_device_train_batch_size", "2", *ON_CPU, *options]
    done = forked.run(["-m", "xgenmm_hf.cli.run", "trl", verb, *given])
    assert done.returncode == 0, done.stderr[-3000:]
    adapter = "--use_peft" in options
    saved = load_file(out / ("adapter_model.safetensors" if adapter else "model.safetensors"))
    start = load_file(Path(TINY_MODEL) / "model.safetensors")
    # An adapter's second factors start as zeros.
    start |= {name: torch.zeros_like(weight) for name, weight in saved.items() if "lora_B" in name}
    trained = "lora_B" if adapter else "language_model.layers"
    moved = {name: not torch.equal(weight, start[name]) for name, weight in saved.items() if trained in name}
    assert moved and all(moved.values()), moved
