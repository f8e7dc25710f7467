"""Keeps logs, warnings and progress bars of libraries out of the command line's output, and draws its own bars."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xgenmm_hf.cli.errors import debugging


if TYPE_CHECKING:
    from xgenmm_hf.inference.loading import Loaded


def quiet_libraries() -> None:
    """Silences library logs and warnings; call it before torch or Transformers is imported.

    Levels that the user set in the environment stay, and XGENMM_DEBUG=1 leaves everything as it is.
    """
    if debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def hide_loading_bars() -> None:
    """Hides Transformers' bars for loading weights; downloads that run before keep theirs."""
    from transformers.utils import logging as library_logging

    if not debugging():
        library_logging.disable_progress_bar()


def load_model(source: str, dtype: str, device: str, load_in: str | None = None) -> "Loaded":
    """Loads a resolved model; bars show downloads only."""
    from xgenmm_hf.inference.loading import load
    from xgenmm_hf.inference.source import is_local

    if is_local(source):
        hide_loading_bars()
    return load(source, dtype=dtype, device=device, load_in=load_in)


@contextmanager
def progress_bar(title: str, *columns: Any, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Shows a bar on stderr if that is a terminal; yields a function of (done, total) or (title, done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    columns = columns or Progress.get_default_columns()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(title, total=None)

        def report(*told: Any) -> None:
            *named, done, total = told
            bar.update(task, description=named[0] if named else title, completed=done, total=total)

        yield report
