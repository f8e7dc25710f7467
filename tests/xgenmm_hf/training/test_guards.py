"""A run counts rows it cannot read, stops above a share of them, and stops where the loss is no number."""

import logging

import pytest
import torch
from run_rows import ON_CPU, chat_rows, save_rows

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration
from xgenmm_hf.training.arguments import parse_recipe
from xgenmm_hf.training.guards import TrainingStopped
from xgenmm_hf.training.loading import load_for_training, load_stage_rows
from xgenmm_hf.training.run import build_trainer
from xgenmm_hf.training.sharding import add_blank_image


def make_trainer(rows, tmp_path, *options):
    folder = save_rows(rows, tmp_path / "rows")
    size = ["--per_device_train_batch_size", "4", "--save_strategy", "no", "--num_train_epochs", "1"]
    given = ["--model_name_or_path", TINY_MODEL, "--mixture", str(folder), "--output_dir", str(tmp_path / "out")]
    recipe = parse_recipe("sft", [*given, *size, *ON_CPU, *options])
    model, processor = load_for_training(recipe)
    return build_trainer(recipe, model, processor, *load_stage_rows(recipe, processor))


def break_images(rows, indices):
    for index in indices:
        rows[index]["images"] = [{"bytes": b"no image", "path": None}]
    return rows


def test_unreadable_images_are_counted_and_reported(tmp_path, caplog):
    rows = break_images(chat_rows(8), [0, 1])
    trainer = make_trainer(rows, tmp_path)
    with caplog.at_level(logging.INFO, logger="xgenmm_hf"):
        trainer.train()
    assert (trainer.num_rows, trainer.num_dropped) == (8, 2)
    assert caplog.text.count("colours/0 is dropped") == 1
    assert "2 of 8 rows (25.00%) were dropped since the last start" in caplog.text
    assert trainer.state.global_step == 2


def test_run_stops_above_the_share_of_unreadable_images(tmp_path, monkeypatch):
    monkeypatch.setattr("xgenmm_hf.training.guards.JUDGED_AFTER", 8)
    trainer = make_trainer(break_images(chat_rows(12), range(0, 12, 2)), tmp_path, "--max_dropped", "0.2")
    with pytest.raises(TrainingStopped, match=r"rows \(.*%\) have an image that cannot be read or a .*is dropped"):
        trainer.train()
    assert trainer.state.global_step < 3


def test_batch_without_a_readable_row_is_a_step_without_a_change(tmp_path):
    trainer = make_trainer(break_images(chat_rows(4, text_only_every=0), range(4)), tmp_path, "--max_dropped", "1")
    before = trainer.model.lm_head.weight.clone()
    assert trainer.train().training_loss == 0
    assert torch.equal(trainer.model.lm_head.weight, before)


def test_loss_that_is_no_number_stops_the_run_with_its_rows(tmp_path):
    trainer = make_trainer(chat_rows(8, text_only_every=0), tmp_path)
    with torch.no_grad():
        trainer.model.lm_head.bias.fill_(float("nan"))
    with pytest.raises(
        TrainingStopped, match=r"training loss at step 1 is not finite, on the rows colours/\d, colours"
    ):
        trainer.train()


def test_notes_are_taken_off_a_batch(tmp_path):
    trainer = make_trainer(chat_rows(4), tmp_path)
    batch = {"input_ids": torch.ones(1, 2), "row_ids": ["a/1"], "unreadable": ["gone"]}
    assert trainer._prepare_inputs(batch).keys() == {"input_ids"} and len(batch) == 3
    assert (trainer.num_rows, trainer.num_dropped) == (2, 1)


@pytest.mark.parametrize("length", [3, 40])
def test_blank_image_leaves_the_loss_and_reaches_the_resampler(length):
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
    ids = torch.arange(5, 5 + length)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    plain = model(**batch).loss
    blank = add_blank_image(batch, model.config)
    loss = model(**blank).loss
    assert torch.allclose(loss, plain, atol=1e-5)
    loss.backward()
    assert all(weight.grad is not None for weight in model.model.resampler.parameters())
    assert batch["input_ids"].shape == (1, length)
