"""Muon for the layers' matrices, AdamW for everything else.

Muon turns each matrix' momentum into its nearest orthogonal matrix before stepping, which small transformers need
fewer steps with; its own work is small beside theirs.
"""

from collections.abc import Iterable
from typing import Any

import torch


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
        self.muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=weight_decay, momentum=0.95)
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
