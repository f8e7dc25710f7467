"""Runs a script of another project with xGen-MM registered, such as TRL's `sft_vlm.py`, which knows only Auto classes.

python -m xgenmm_hf.run_script sft_vlm.py --model_name_or_path CHECKPOINT ...
accelerate launch -m xgenmm_hf.run_script dpo_vlm.py --model_name_or_path CHECKPOINT ...
"""

import runpy
import sys
from pathlib import Path

from xgenmm_hf.errors import friendly_errors


@friendly_errors
def main() -> None:
    """Registers the model family and runs the script that the first argument names.

    Raises:
        ValueError: If there is no such script.
    """
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        raise ValueError("Name a script first: python -m xgenmm_hf.run_script SCRIPT.py [its options].")
    import xgenmm_hf.auto  # noqa: F401

    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
