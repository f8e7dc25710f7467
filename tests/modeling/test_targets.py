"""Image tokens are never training targets, whoever builds the labels and whoever counts them."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor


@pytest.fixture(scope="module")
def processor():
    return XGenMMProcessor.from_pretrained(TINY_MODEL)


@pytest.fixture
def inputs(processor):
    return processor(images=Image.new("RGB", (40, 30), "red"), text="<image>\nA red card.", return_tensors="pt")


@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_labels_set_on_the_processors_output_lose_their_image_tokens(processor, kind):
    image = Image.new("RGB", (40, 30), "red")
    inputs = processor(images=[image], text=["<image>\nA red card."], return_tensors=kind)
    inputs["labels"] = inputs["input_ids"]
    ids, labels = (np.asarray(inputs[name]) for name in ("input_ids", "labels"))
    shown = ids == processor.image_token_id
    assert shown.any()
    assert (labels[shown] == -100).all()
    assert (labels[~shown] == ids[~shown]).all()


def test_labels_are_masked_after_a_loaders_process_sent_the_inputs(processor, inputs):
    received = pickle.loads(pickle.dumps(inputs))
    received["labels"] = received["input_ids"].clone()
    assert processor.image_token_id not in received["labels"]


def test_plain_trainer_divides_by_the_text_targets(processor, inputs, tmp_path):
    """A collator that returns a plain dict, and a Trainer that counts image tokens among its targets."""
    model = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()
    batch = {**inputs, "labels": inputs["input_ids"].clone()}
    with torch.no_grad():
        wanted = model(**batch).loss.item()
        logits = model(**inputs).logits[0, :-1]
    targets = inputs["input_ids"][0, 1:]
    text = targets != processor.image_token_id
    assert wanted == pytest.approx(torch.nn.functional.cross_entropy(logits[text], targets[text]).item(), rel=1e-5)
    options = {"use_cpu": True, "report_to": "none", "max_steps": 1, "save_strategy": "no", "logging_steps": 1}
    args = TrainingArguments(tmp_path, **options)
    trainer = Trainer(model, args, train_dataset=[0], data_collator=lambda rows: batch)
    logged = []
    trainer.log = lambda logs, *_: logged.append(logs)
    trainer.train()
    assert logged[0]["loss"] == pytest.approx(wanted, rel=2e-2)  # Trainer counts the first token, which has no target
