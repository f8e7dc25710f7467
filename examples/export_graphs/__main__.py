"""Writes torch.export graphs of the vision part and of the language model of a checkpoint."""

import argparse
from pathlib import Path

from export_graphs.tracing import export_graphs


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m export_graphs", description=__doc__)
    parser.add_argument("model", help="checkpoint folder or Hub repository")
    parser.add_argument("out", help="folder to make; must not exist or be empty")
    parser.add_argument("--context", type=int, help="longest prompt with its answer; default: the model's context")
    parser.add_argument("--dtype", default="auto", help="dtype to compute in")
    given = parser.parse_args()
    try:
        facts = export_graphs(given.model, given.out, context=given.context, dtype=given.dtype)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    size = sum(file.stat().st_size for file in Path(given.out).iterdir())
    print(f"{given.out}: {size / 1e6:.1f} MB, context {facts['cache']['context']}, {facts['dtype']}")


if __name__ == "__main__":
    main()
