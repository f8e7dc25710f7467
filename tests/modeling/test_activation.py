import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.loading import load
from xgenmm_hf.modeling.activation_xgenmm import TanhGELU, with_fast_gelu


VALUES = torch.cat([torch.linspace(-30, 30, 20001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4, 1e20, -1e20])])


def test_it_is_as_exact_as_pytorchs():
    exact = functional.gelu(VALUES.double(), approximate="tanh")
    theirs = (functional.gelu(VALUES, approximate="tanh") - exact).abs()
    ours = (TanhGELU()(VALUES) - exact).abs()
    scale = exact.abs().clamp(min=1)
    assert (ours / scale).max() <= 1.5 * (theirs / scale).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_and_other_dtypes_are_pytorchs(dtype):
    values = VALUES[:-4].to(dtype).requires_grad_()
    ours, theirs = TanhGELU()(values), functional.gelu(values, approximate="tanh")
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(result.sum(), values)[0] for result in (ours, theirs)))


def test_values_are_not_changed():
    values = VALUES.clone()
    TanhGELU()(values)
    assert torch.equal(values, VALUES)


def test_only_this_activation_is_replaced():
    parts = nn.Sequential(ACT2FN["gelu_pytorch_tanh"], nn.Sequential(ACT2FN["gelu"], ACT2FN["quick_gelu"]))
    kinds = [type(part) for part in with_fast_gelu(parts)[1]]
    assert isinstance(parts[0], TanhGELU)
    assert [type(part) for part in parts[1]] == kinds
    assert TanhGELU not in kinds


def test_the_tower_uses_it():
    tower = load(TINY_MODEL).model.model.vision_tower
    assert sum(isinstance(part, TanhGELU) for part in tower.modules()) == tower.config.num_hidden_layers
