"""Muon for the layers' matrices, AdamW for everything else.

Muon turns each matrix' momentum into its nearest orthogonal matrix before stepping, which small transformers need
fewer steps with; its own work is small beside theirs. `torch.optim.Muon` computes that matrix in bfloat16, which takes
longer than all the rest of a step on processors without instructions for it; here it is float32.
"""

from collections.abc import Iterable
from typing import Any

import torch


# The quintic iteration's coefficients and number of steps, and the momentum. Source: Muon's reference implementation.
_COEFFICIENTS, _STEPS, _MOMENTUM = (3.4445, -4.775, 2.0315), 5, 0.95


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Returns the nearest orthogonal matrix by Newton-Schulz iteration, roughly: singular values end near 1."""
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is an orthogonal matrix, with decoupled weight decay.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate; tall matrices take it times the root of height over width.
        weight_decay: share of the weights taken off at a rate of 1.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in (each for each in group["params"] if each.grad is not None):
                buffer = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                buffer.lerp_(matrix.grad, 1 - _MOMENTUM)
                update = orthogonalize(matrix.grad.lerp(buffer, _MOMENTUM))
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


class MuonAdam(torch.optim.Optimizer):
    """Two optimizers that step together and look like one to a trainer and its schedule.

    Args:
        named_parameters: names and parameters; those without gradient are left out.
        muon_rate: learning rate of Muon, which takes the matrices of modules named `layers`.
        adam_rate: learning rate of AdamW, which takes the rest.
        betas: AdamW's.
        weight_decay: Muon's; AdamW has none, as its part holds norms and embeddings.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        muon_rate: float,
        adam_rate: float,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ):
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
        self.muon = Muon(matrices, muon_rate, weight_decay)
        self.adam = torch.optim.AdamW(others, lr=adam_rate, weight_decay=0.0, betas=betas)
        # The base class insists on a group of its own; the property below hides it.
        super().__init__([torch.nn.Parameter(torch.zeros(1))], {})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both; a schedule changes their learning rates in place."""
        return [*self.muon.param_groups, *self.adam.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        """Ignores what the base class sets: the groups belong to the two optimizers."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Steps both."""
        self.muon.step()
        self.adam.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of both."""
        self.muon.zero_grad(set_to_none)
        self.adam.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Returns both states."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores both states."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adam.load_state_dict(state_dict["adam"])
