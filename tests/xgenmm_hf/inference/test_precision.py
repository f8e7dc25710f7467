"""The dtype that `auto` stands for."""

import pytest
import torch
from transformers import Phi3Config

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference import precision
from xgenmm_hf.inference.loading import load
from xgenmm_hf.inference.precision import bfloat16_gain, choose_dtype


CPU = torch.device("cpu")
WIDE = Phi3Config(hidden_size=3072, intermediate_size=8192)


def on_a_cpu(monkeypatch, native: bool, gain: float) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: native)
    monkeypatch.setattr(precision, "bfloat16_gain", lambda width, inner: gain)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("native", "gain", "expected", "why"),
    [
        (True, 4.6, torch.bfloat16, "4.6 times as fast as float32"),
        (True, 1.1, torch.float32, "only 1.1 times as fast"),
        (False, 9.0, torch.float32, "no bfloat16 multiplication"),
    ],
)
def test_on_a_cpu(monkeypatch, stored, native, gain, expected, why):
    on_a_cpu(monkeypatch, native, gain)
    dtype, reason = choose_dtype(stored, WIDE, CPU)
    assert dtype == expected
    assert reason.startswith(str(expected).removeprefix("torch.") + " (")
    assert why in reason


def test_a_small_model_keeps_its_digits_on_a_cpu(monkeypatch):
    on_a_cpu(monkeypatch, True, 4.6)
    loaded = load(TINY_MODEL, device="cpu")
    assert loaded.model.dtype == torch.float32
    assert loaded.dtype == "float32 (a small model on a CPU)"
    assert load(TINY_MODEL, dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_a_device_of_another_kind_computes_in_what_is_stored(monkeypatch):
    on_a_cpu(monkeypatch, False, 1.0)
    assert choose_dtype(torch.bfloat16, WIDE, torch.device("cuda:0"))[0] == torch.bfloat16


def test_the_gain_is_measured_once():
    bfloat16_gain.cache_clear()
    assert bfloat16_gain(64, 64, rows=4) > 0
    bfloat16_gain(64, 64, rows=4)
    assert bfloat16_gain.cache_info().hits == 1
