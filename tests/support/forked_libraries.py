"""What the fork server of `forked` prepares once: the libraries, and what each process would else compute again."""

import gc
from contextlib import suppress

import xgenmm_hf.auto
import xgenmm_hf.cli.app
import xgenmm_hf.training.run  # noqa: F401


with suppress(ImportError):  # Transformers 4.57 has none
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("xgenmm")  # compiles a thousand patterns
# A garbage collection of a process reads, and so copies, only what it made itself.
gc.collect()
gc.freeze()
