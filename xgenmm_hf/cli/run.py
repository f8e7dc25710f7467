"""``xgenmm run``: a command of another project with xGen-MM registered, in this process.

accelerate starts processes of its own; each of them registers the family by running this module:
accelerate launch -m xgenmm_hf.cli.run SCRIPT.py [its options]
"""

import importlib
import logging
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Argument

from xgenmm_hf.cli.errors import FAILURE, friendly_errors


CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""What `app.command` must be given for this verb: options after the command's name are the command's."""


def run(
    command: Annotated[
        list[str], Argument(metavar="COMMAND...", help="A script, an installed command or a module, and its options.")
    ],
) -> None:
    """Run a command that knows only Transformers' own models, such as: xgenmm run transformers serve."""
    command = without_launcher(command)
    start = find_command(command[0])
    logging.disable(logging.NOTSET)
    warnings.resetwarnings()
    importlib.import_module("xgenmm_hf.auto")
    sys.argv = list(command)
    try:
        start()
    except Exception:
        # The command itself failed, so its whole traceback is of use.
        traceback.print_exc()
        raise SystemExit(FAILURE) from None


def without_launcher(command: list[str]) -> list[str]:
    """Replaces `trl VERB`, which would start a process that does not know the family, by the script of the verb."""
    script = f"trl.scripts.{command[1]}" if command[0] == "trl" and len(command) > 1 else ""
    return [script, *command[2:]] if script and is_module(script) else command


def find_command(name: str) -> Callable[[], object]:
    """Finds what a name stands for: a file, else a command of an installed package, else a module."""
    if Path(name).is_file():
        sys.path.insert(0, str(Path(name).resolve().parent))
        return lambda: runpy.run_path(name, run_name="__main__")
    if scripts := list(entry_points(group="console_scripts", name=name)):
        return lambda: sys.exit(scripts[0].load()())  # an installed command returns its exit code
    if is_module(name):
        return lambda: runpy.run_module(name, run_name="__main__", alter_sys=True)
    raise ValueError(
        f"{name} is no file, no command of a package installed with xgenmm and no module; "
        "write for example: xgenmm run sft_vlm.py [its options]"
    )


def is_module(name: str) -> bool:
    """Tells whether Python finds a module of this name."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@friendly_errors
def main() -> None:
    """Runs the command that the process's arguments name."""
    if len(sys.argv) < 2:
        raise ValueError("Name a command first: python -m xgenmm_hf.cli.run SCRIPT.py [its options].")
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
