"""TRL's trainers, commands and scripts run on our checkpoints as they are."""

import logging
import os
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from PIL import Image
from trl import GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer
from trl_scripts import run_script

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor


# A checkout of TRL's repository: its scripts for images are not in the installed package.
CHECKOUT = Path(os.environ.get("TRL_CHECKOUT", "nowhere"))
TINY_RUN = ["--model_name_or_path", TINY_MODEL, "--max_steps", "2", "--use_cpu", "true", "--bf16", "false"]
TINY_RUN += ["--per_device_train_batch_size", "2", "--report_to", "none", "--save_strategy", "no"]
LORA = ["--use_peft", "--lora_target_modules", "qkv_proj", "o_proj"]
GENERATED = ["--num_generations", "2", "--max_completion_length", "4"]
SCRIPTS = {
    "grpo_vlm": GENERATED,
    "rloo_vlm": GENERATED,
    "gspo_vlm": [*GENERATED, "--importance_sampling_level", "sequence", "--beta", "0.04"],
    "online_dpo_vlm": ["--max_new_tokens", "4", "--max_length", "1024"],
    "sft_vlm": ["--dataset_name", "messages"],
    "dpo_vlm": ["--dataset_name", "preferences", *LORA],
    "mpo_vlm": ["--dataset_name", "preferences", *LORA, "--loss_type", "sigmoid", "bco_pair", "sft"],
}


def image(index: int) -> Image.Image:
    return Image.new("RGB", (40 + 30 * (index % 3), 40), ("red", "green", "blue")[index % 3])


def questions(num_images: int) -> Dataset:
    rows = []
    for index in range(4):
        row = {"prompt": [{"role": "user", "content": f"Which colours? {index}"}]}
        rows.append({**row, "images": [image(index + place) for place in range(num_images)]} if num_images else row)
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Returns a function that loads the embedded model in a mode, from a folder: references are loaded from there."""

    def load(mode: str):
        folder = tmp_path_factory.mktemp(mode)
        model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
        processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
        model.config.image_aspect_ratio = processor.image_processor.image_aspect_ratio = mode
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        model = XGenMMForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        return model, XGenMMProcessor.from_pretrained(folder)

    return load


def reward(completions, **_):
    return [float(index % 2) for index in range(len(completions))]


@pytest.mark.slow
@pytest.mark.parametrize(("num_images", "mode"), [(0, "anyres"), (1, "anyres"), (2, "anyres"), (1, "none")])
@pytest.mark.parametrize(
    ("trainer", "config", "beta"),
    [(GRPOTrainer, GRPOConfig, 0.0), (GRPOTrainer, GRPOConfig, 0.04), (RLOOTrainer, RLOOConfig, 0.05)],
    ids=["grpo", "grpo-beta", "rloo"],
)
def test_rewarded_answers(load, trainer, config, beta, num_images, mode, tmp_path):
    model, processor = load(mode)
    before = model.lm_head.weight.clone()
    options = {"max_steps": 2, "per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 4}
    quiet = {"bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no", "learning_rate": 1e-3}
    trainer(
        model=model,
        reward_funcs=reward,
        args=config(str(tmp_path), beta=beta, temperature=2.0, **options, **quiet),
        train_dataset=questions(num_images),
        processing_class=processor,
    ).train()
    assert not torch.equal(model.lm_head.weight, before)
    assert model.lm_head.weight.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("with_images", [False, True])
def test_kto(load, with_images, tmp_path):
    model, processor = load("anyres")
    before = model.lm_head.weight.clone()
    rows = []
    for index in range(4):
        row = {"prompt": [{"role": "user", "content": "Which colour?"}], "label": bool(index % 2)}
        row["completion"] = [{"role": "assistant", "content": "red"}]
        rows.append({**row, "images": [image(index)]} if with_images else row)
    args = KTOConfig(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
    )
    trainer = KTOTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=processor)
    assert trainer.train().training_loss == pytest.approx(0.5, abs=1e-3)
    (logged,) = (entry for entry in trainer.state.log_history if "rewards/chosen" in entry)
    # Before the first step the model is its own reference, and the rows differ in nothing but their images.
    assert [logged["rewards/chosen"], logged["rewards/rejected"]] == pytest.approx([0, 0], abs=1e-3)
    assert (abs(logged["logps/chosen"] - logged["logps/rejected"]) > 1e-3) == with_images
    assert not torch.equal(model.lm_head.weight, before)


def launch(monkeypatch, script: Path, *options: str, output: Path) -> None:
    run_script(monkeypatch, script, [*TINY_RUN, "--output_dir", str(output), *options])
    assert list(output.glob("*model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dataset"), [("sft", "messages"), ("dpo", "preferences")])
def test_command_of_trl(name, dataset, tmp_path, monkeypatch):
    script = Path(trl.__file__).parent / "scripts" / f"{name}.py"
    launch(monkeypatch, script, "--dataset_name", dataset, output=tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUT.is_dir(), reason="TRL_CHECKOUT names no checkout of TRL's repository")
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_of_trl(name, tmp_path, monkeypatch):
    script = CHECKOUT / "examples" / "scripts" / f"{name}.py"
    launch(monkeypatch, script, *SCRIPTS[name], output=tmp_path / "out")


@pytest.mark.parametrize("counts_images", [True, False])
def test_image_tokens_of_a_foreign_collator_are_no_targets(load, tmp_path, caplog, counts_images):
    """A collator that returns a plain dict, whose labels TRL's fused loss reads without asking the model."""
    model, processor = load("none")
    inputs = dict(processor(images=image(0), text="<image>\nA red card.", return_tensors="pt"))
    shown = inputs["input_ids"] == processor.image_token_id
    text_only = inputs["input_ids"].masked_fill(shown, -100)
    labels = inputs["input_ids"].clone() if counts_images else text_only
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(tmp_path, use_cpu=True, bf16=False, report_to="none", max_length=None),
        train_dataset=Dataset.from_list([{"messages": [{"role": "user", "content": "Hi"}]}] * 2),
        processing_class=processor,
        data_collator=lambda rows: {**inputs, "labels": labels},
    )
    model.eval()
    logging.Logger.warning_once.cache_clear()
    with torch.no_grad():
        seen = trainer.compute_loss(model, {**inputs, "labels": labels}, num_items_in_batch=(labels != -100).sum())
        wanted = model(**inputs, labels=text_only).loss
    assert seen.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert ("Labels hold image tokens" in caplog.text) == counts_images
