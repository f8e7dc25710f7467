"""Runs the notebooks of examples/ and stores them with their outputs.

    python tests/support/execute_notebooks.py [05_dpo ...]          # needs nbclient and ipykernel

What is printed to the error stream (warnings, progress) is left out, and names of temporary folders are shortened.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORTENED = (
    (re.compile(r"/tmp/tmp\w+"), "/tmp/work"),
    (re.compile(re.escape(str(EXAMPLES.parent))), ""),
    (re.compile(r"'train_(runtime|samples_per_second|steps_per_second)': '?[\d.]+'?, "), ""),
)


def clean(output: dict) -> dict | None:
    """Returns an output as it is stored; None drops it."""
    if output.get("name") == "stderr":
        return None
    for pattern, text in SHORTENED:
        if "text" in output:
            output["text"] = pattern.sub(text, output["text"])
        for kind, value in output.get("data", {}).items():
            if isinstance(value, str) and kind.startswith("text/"):
                output["data"][kind] = pattern.sub(text, value)
    return output


def main() -> None:
    """Runs all notebooks in the folder that they are in."""
    for file in sorted(EXAMPLES.glob("*.ipynb")):
        if sys.argv[1:] and file.stem not in sys.argv[1:]:
            continue
        notebook = nbformat.read(file, as_version=4)
        NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs = [kept for kept in map(clean, cell.outputs) if kept is not None]
        notebook.metadata["language_info"] = {"name": "python"}
        file.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(file.name, flush=True)


if __name__ == "__main__":
    main()
