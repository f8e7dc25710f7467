"""Runs a training stage and kills its own process at a given moment, the way a lost machine would.

    python train_until_killed.py MOMENT STEP stage --option value ...

MOMENT: `step` (after the STEP-th optimizer step, between checkpoints) or `saving` (in the middle of writing the
STEP-th step's checkpoint, after the weights and before the rest); `never` lets the run end. Each step's loss and row
ids are appended to losses.jsonl in the output folder.
"""

import json
import os
import signal
import sys
from pathlib import Path

from transformers import Trainer

from xgenmm_hf.training.__main__ import main
from xgenmm_hf.training.guards import GuardedTrainerMixin


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def record_losses(moment: str, last: int) -> None:
    compute_loss = GuardedTrainerMixin.compute_loss

    def recorded(self, model, inputs, return_outputs=False, **kwargs):
        loss = compute_loss(self, model, inputs, return_outputs=return_outputs, **kwargs)
        step = self.state.global_step + 1
        with (Path(self.args.output_dir) / "losses.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "loss": loss.item(), "rows": self._row_ids}) + "\n")
        if moment == "step" and step > last:
            kill()
        return loss

    GuardedTrainerMixin.compute_loss = recorded


def kill_while_saving(last: int) -> None:
    save_state = Trainer._save_optimizer_and_scheduler

    def interrupted(self, output_dir):
        if self.state.global_step == last:
            kill()
        return save_state(self, output_dir)

    Trainer._save_optimizer_and_scheduler = interrupted


if __name__ == "__main__":
    moment, last = sys.argv[1], int(sys.argv[2])
    Path(sys.argv[sys.argv.index("--output_dir") + 1]).mkdir(parents=True, exist_ok=True)
    record_losses(moment, last)
    if moment == "saving":
        kill_while_saving(last)
    main(sys.argv[3:])
