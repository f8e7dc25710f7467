"""``python -m xgenmm_hf.evaluation`` is ``xgenmm eval``; what `accelerate launch -m` starts on several devices."""

import typer

from xgenmm_hf.cli.console import quiet_libraries
from xgenmm_hf.cli.eval import evaluate
from xgenmm_hf.errors import friendly_errors


def main() -> None:
    """Runs an evaluation with the process's arguments."""
    quiet_libraries()
    typer.run(friendly_errors(evaluate))


if __name__ == "__main__":
    main()
