"""One process's part of an evaluation that several processes share."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


# Processes finish at different times; none gives up on the others before this.
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True)
class Share:
    """This process's rank among `world`, its device, and `wait`, which returns when every process has called it."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], object] = bool
    device: str = "auto"

    @property
    def is_first(self) -> bool:
        """Whether this process merges what all found."""
        return self.rank == 0


def current_share(device: str = "auto") -> Share:
    """Returns this process's part under `accelerate launch` or torchrun, or everything for a process on its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Share(device=device)
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    own = str(state.device) if device == "auto" else device
    return Share(state.process_index, state.num_processes, state.wait_for_everyone, own)
