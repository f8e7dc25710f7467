"""The vision tower's activation, computed the fast way where PyTorch's own kernel is slow.

Source: GELU by tanh (arXiv 1606.08415) is x * sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3). PyTorch 2.13's
kernel for it takes several times as long on a CPU as the four elementwise steps of this form, and is as far from the
float64 result; figures in docs/performance.md.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN


_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


class TanhGELU(nn.Module):
    """GELU by tanh: PyTorch's, but for float32 inference on a CPU.

    Attributes:
        fast: Set it to False for PyTorch's there too.
    """

    fast = True

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Applies the activation to each of the values."""
        trained = torch.is_grad_enabled() and values.requires_grad
        here = self.fast and values.device.type == "cpu" and values.dtype == torch.float32
        if trained or not here:
            return functional.gelu(values, approximate="tanh")
        gate = torch.square(values).mul_(_CUBIC).add_(_LINEAR).mul_(values)
        return gate.sigmoid_().mul_(values)


def with_fast_gelu(module: nn.Module) -> nn.Module:
    """Puts `TanhGELU` in the place of the library's module for it, in all of a module's parts, and returns it."""
    library = type(ACT2FN["gelu_pytorch_tanh"])
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, library):
                setattr(part, name, TanhGELU())
    return module
