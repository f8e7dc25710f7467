"""``python -m xgenmm_hf.training STAGE --config recipe.yaml``: what ``accelerate launch -m`` starts."""

import logging
import os
import sys

from xgenmm_hf.training import STAGES


# tqdm reads its options from the environment at import; steps of a moment show no bar
BARS_AFTER = {"TQDM_DELAY": "2", "TQDM_MININTERVAL": "1"}


def show_messages() -> None:
    """Configures logging and progress bars; call it before Transformers is imported."""
    for name, value in BARS_AFTER.items():
        os.environ.setdefault(name, value)
    if os.environ.get("TRANSFORMERS_VERBOSITY") == "error":  # the command line sets it for its other verbs
        os.environ["TRANSFORMERS_VERBOSITY"] = "warning"
    logging.basicConfig(format="%(message)s")
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.getLogger("xgenmm_hf").setLevel(level)


def check_libraries() -> None:
    """Raises a `ValueError` with the pip command if a training library is missing."""
    import importlib.util

    missing = [name for name in ("trl", "peft", "datasets", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"Training needs {', '.join(missing)}: pip install 'xgenmm-hf[train]'.")


def main(arguments: list[str] | None = None) -> None:
    """Runs the stage that `arguments` name; default: the arguments of the process."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in STAGES:
        raise ValueError(f"Name a stage first: {', '.join(STAGES)}.")
    check_libraries()
    show_messages()
    from xgenmm_hf.training.run import run_stage

    run_stage(given[0], given[1:])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("XGENMM_DEBUG", "0") not in ("", "0"):
            raise
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")
