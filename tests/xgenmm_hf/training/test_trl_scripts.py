"""Scripts that know only TRL and the Auto classes run on our checkpoints once the family is registered."""

import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from run_rows import ON_CPU, preference_rows

from xgenmm_hf import TINY_MODEL


# The calls of TRL's own scripts for images: its parser, a data set with a list of images, an Auto class without
# trust_remote_code, its trainer with its collator, and a save.
SFT = """
from datasets import load_dataset
from transformers import AutoModelForImageTextToText
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_peft_config

script, training, model = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config()
training.max_length = None
trainer = SFTTrainer(
    model=AutoModelForImageTextToText.from_pretrained(model.model_name_or_path, dtype=model.dtype),
    args=training,
    train_dataset=load_dataset(script.dataset_name)[script.dataset_train_split],
    peft_config=get_peft_config(model),
)
trainer.train()
trainer.save_model(training.output_dir)
"""
DPO = """
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_peft_config

script, training, model = TrlParser((ScriptArguments, DPOConfig, ModelConfig)).parse_args_and_config()
trainer = DPOTrainer(
    AutoModelForImageTextToText.from_pretrained(model.model_name_or_path, dtype=model.dtype),
    args=training,
    train_dataset=load_dataset(script.dataset_name)[script.dataset_train_split],
    processing_class=AutoProcessor.from_pretrained(model.model_name_or_path),
    peft_config=get_peft_config(model),
)
trainer.train()
trainer.save_model(training.output_dir)
"""
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
    ("script", "columns", "options"),
    [
        (SFT, ["messages"], []),
        (DPO, ["prompt", "chosen", "rejected"], ["--use_peft", "--lora_target_modules", "qkv_proj", "o_proj"]),
    ],
    ids=["sft", "dpo"],
)
def test_script_for_trl_runs_unchanged(script, columns, options, tmp_path):
    file, out = tmp_path / "script.py", tmp_path / "out"
    file.write_text(script)
    given = ["--dataset_name", str(save_parquet(tmp_path / "data", columns)), "--model_name_or_path", TINY_MODEL]
    given += ["--output_dir", str(out), "--max_steps", "2", "--per_device_train_batch_size", "2", *ON_CPU, *options]
    command = [sys.executable, "-m", "xgenmm_hf.cli.run", str(file), *given]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / ("adapter_model.safetensors" if options else "model.safetensors")).is_file()
