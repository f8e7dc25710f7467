"""A training stage sharded by FSDP2 over processes of one machine without a GPU.

    torchrun --nproc_per_node 2 fsdp2_on_cpu.py LOSSES stage --option value ...

accelerate takes FSDP for accelerators only: among processes on CPUs it keeps the plugin out of its state and wraps the
model in DistributedDataParallel, without a word. `use_fsdp_on_cpu` puts the plugin in the state where accelerate would
have put it for GPUs; torch itself shards on CPUs through gloo. After training rank 0 appends to the file LOSSES the
loss of each step, how many parameters were DTensors, and how many values this rank held of all.
"""

import json
import os
import sys
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from xgenmm_hf.training.__main__ import main
from xgenmm_hf.training.guards import GuardedTrainerMixin


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Phi3DecoderLayer,XGenMMResamplerLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def use_fsdp_on_cpu() -> None:
    os.environ.update(FSDP2)
    initialise = AcceleratorState.__init__

    def initialised(self, *args, fsdp_plugin=None, **kwargs):
        initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = initialised


def record_steps(file: Path) -> None:
    train = GuardedTrainerMixin.train

    def recorded(self, *args, **kwargs):
        result = train(self, *args, **kwargs)
        parameters = list(self.model.parameters())
        sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
        losses = {int(entry["step"]): entry["loss"] for entry in self.state.log_history if "loss" in entry}
        facts = {
            "losses": losses,
            "class": type(self.model).__name__,
            "parameters": len(parameters),
            "dtensors": len(sharded),
            "values": sum(parameter.numel() for parameter in parameters),
            "values_here": sum(parameter.to_local().numel() for parameter in sharded),
        }
        if self.is_world_process_zero():
            with file.open("a") as lines:
                lines.write(json.dumps(facts) + "\n")
        return result

    GuardedTrainerMixin.train = recorded


if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        use_fsdp_on_cpu()
    record_steps(Path(sys.argv[1]))
    main(sys.argv[2:])
