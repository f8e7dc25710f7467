"""What a report says that wrote it."""

import shlex
import sys
from collections.abc import Sequence


def command_given(module: str, target: str, defaults: Sequence[str]) -> str:
    """Returns the command that this process was started with, as a person would type it.

    Args:
        module: The module that runs.
        target: Target of the Makefile that runs it too.
        defaults: The arguments that the target gives.

    Returns:
        `make TARGET` where the arguments are the target's, else the module with its arguments.
    """
    given = sys.argv[1:]
    return f"make {target}" if given == list(defaults) else shlex.join(["python", "-m", module, *given])
