"""Keeping what libraries log, warn and draw out of the command line's own output."""

import logging
import os
import warnings

from xgenmm_hf.errors import debugging


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
