"""``python -m xgenmm_hf.training STAGE --config recipe.yaml``: what ``accelerate launch -m`` starts."""

import logging
import os
import sys

from xgenmm_hf.cli.errors import friendly_errors


STAGES = ("pretrain", "sft", "dpo", "safety")


def show_messages() -> None:
    """Shows this package's messages; ranks other than the first only show warnings."""
    logger = logging.getLogger("xgenmm_hf")
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def check_libraries() -> None:
    """Checks that the training libraries are installed, before one of them fails to be imported.

    Raises:
        ValueError: With the command that installs them.
    """
    import importlib.util

    missing = [name for name in ("trl", "peft", "datasets", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"Training needs {', '.join(missing)}: pip install 'xgenmm-hf[train]'.")


@friendly_errors
def main(arguments: list[str] | None = None) -> None:
    """Runs a stage with the process's arguments.

    Args:
        arguments: The stage and its options; default: the process's.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in STAGES:
        raise ValueError(f"Name a stage first: {', '.join(STAGES)}.")
    check_libraries()
    show_messages()
    from xgenmm_hf.training.run import run_stage

    run_stage(given[0], given[1:])


if __name__ == "__main__":
    main()
