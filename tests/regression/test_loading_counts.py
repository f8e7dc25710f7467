"""What loading a checkpoint costs, counted: nothing is drawn at random, nothing passes through float32."""

import torch
from counting import InitialisationCounter

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration


def load(folder, **options):
    with InitialisationCounter() as counter:
        model = XGenMMForConditionalGeneration.from_pretrained(folder, **options)
    return model, counter


def test_loaded_weights_are_not_initialised_first():
    _, counter = load(TINY_MODEL)
    assert counter.drawn == 0


def test_building_from_a_config_is_what_the_counter_sees():
    config = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL).config
    with InitialisationCounter() as counter:
        model = XGenMMForConditionalGeneration(config)
    assert counter.drawn > 0.9 * sum(weight.numel() for weight in model.parameters())


def test_half_precision_is_loaded_without_a_float32_copy(tmp_path):
    XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model, counter = load(tmp_path, dtype="auto")
    assert model.dtype == torch.bfloat16
    largest = max(weight.numel() for weight in model.parameters())
    assert counter.largest_float32 < largest / 4
