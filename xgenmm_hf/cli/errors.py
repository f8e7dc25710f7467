"""What a user of the command line sees when something goes wrong: one line, an exit code, no traceback."""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast


Verb = TypeVar("Verb", bound=Callable[..., Any])

FAILURE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 130, 141, 143
_BUGS = (TypeError, AttributeError, LookupError, NameError, AssertionError)


def debugging() -> bool:
    """Returns whether XGENMM_DEBUG asks for tracebacks and library logs."""
    return os.environ.get("XGENMM_DEBUG", "") not in ("", "0")


def error_line(error: BaseException) -> str:
    """Returns the error's message on one line, without the error's type unless it is unexpected."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    message = " ".join(str(error).split())
    if isinstance(error, _BUGS) or not message:
        return " ".join(f"unexpected {type(error).__name__}: {message} (XGENMM_DEBUG=1 shows where)".split())
    return message


def friendly_errors(verb: Verb) -> Verb:
    """Decorates a verb so that a failure is one line on stderr and an exit code.

    Exit codes: 1 for a failure, 2 for wrong usage (typer's own), 130 for Ctrl-C, 141 for a reader that hung up.
    With XGENMM_DEBUG=1 exceptions pass through with their traceback.
    """

    @functools.wraps(verb)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            result = verb(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # The interpreter flushes stdout once more on its way out; that must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(BROKEN_PIPE) from None
        except Exception as error:
            import typer

            # typer reports usage errors and exits by itself
            if debugging() or isinstance(error, (typer.BadParameter, typer.Exit, typer.Abort)):
                raise
            print(f"error: {error_line(error)}", file=sys.stderr)
            raise SystemExit(FAILURE) from None
        return result

    return cast(Verb, guarded)


@contextmanager
def cleaning_up_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into an exit that cleans up as after Ctrl-C; restores the previous handler at the end."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
