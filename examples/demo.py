"""What `make demo` runs: `xgenmm ask` on the images that ship with the package, with the expected answers beside.

python examples/demo.py
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import xgenmm_hf


IMAGES = Path(xgenmm_hf.__file__).parent / "assets" / "images"
XGENMM = Path(sys.executable).parent / "xgenmm"


def main() -> int:
    """Asks every shipped question and returns how many answers differ from what is expected."""
    wrong = 0
    for row in json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))[:3]:
        arguments = ["ask", str(IMAGES / row["image"]), "--prompt", row["question"]]
        print(f"$ xgenmm {shlex.join(arguments)}", flush=True)
        done = subprocess.run([XGENMM, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        answer = done.stdout.strip()
        wrong += answer != row["answer"]
        print(f"{answer}   (expected: {row['answer']})\n", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
