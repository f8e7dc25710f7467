"""Runs one stage as `xgenmm train` does, with Muon for the layers' matrices where a rate is given.

python -m embedded_model.train sft --config sft.yaml --muon_rate 6e-3 ...
"""

import logging
import sys
from functools import partial
from typing import Any

from embedded_model.parts.muon import MuonAdam
from xgenmm_hf import run_stage


def make_optimizer(rate: float, model: Any, args: Any) -> MuonAdam:
    """Makes the optimizer of a run.

    Args:
        rate: Muon's learning rate.
        model: The model, its gradients switched on and off already.
        args: The run's training arguments; `learning_rate` is AdamW's, `weight_decay` Muon's.
    """
    betas = (args.adam_beta1, args.adam_beta2)
    return MuonAdam(model.named_parameters(), rate, args.learning_rate, betas=betas, weight_decay=args.weight_decay)


def main() -> None:
    """Reads `--muon_rate` and leaves all other options to `run_stage`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    stage, *options = sys.argv[1:]
    optimizer = None
    if "--muon_rate" in options:
        place = options.index("--muon_rate")
        optimizer = partial(make_optimizer, float(options[place + 1]))
        options[place : place + 2] = []
    run_stage(stage, options, optimizer)


if __name__ == "__main__":
    main()
