"""Every notebook in examples/ runs from top to bottom on the embedded model, and is stored the way it should be."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest


NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.ipynb"))


def read(notebook: Path) -> dict[str, Any]:
    return json.loads(notebook.read_text(encoding="utf-8"))


@pytest.fixture
def run(monkeypatch):
    """Runs a notebook's cells in this process, which has the libraries loaded, and returns what they printed."""
    monkeypatch.chdir(NOTEBOOKS[0].parent)

    def run_cells(name: str, epochs: int | None = None) -> str:
        names: dict[str, Any] = {"__name__": "__main__", "display": lambda *shown: None}
        said = io.StringIO()
        notebook = next(path for path in NOTEBOOKS if path.name == name)
        for cell in read(notebook)["cells"]:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                if epochs is not None:
                    source = re.sub(r"(num_train_epochs)=\d+", rf"\1={epochs}", source)
                code = compile(source, f"{name}, {cell['id']}", "exec")
                with contextlib.redirect_stdout(said):
                    exec(code, names)
        return said.getvalue()

    return run_cells


def test_all_of_them_are_run_here():
    tested = "01_inference 02_batch_inference 03_interleaved_and_few_shot 04_sft_lora 05_dpo 06_looking_inside"
    assert [path.stem for path in NOTEBOOKS] == tested.split()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_with_outputs_and_ready_for_colab(notebook):
    content = read(notebook)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["colab"]["name"] == notebook.name
    assert content["metadata"]["kernelspec"]["language"] == "python"
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    printed = json.dumps([cell["outputs"] for cell in code])
    assert '"output_type": "stream"' in printed and '"stderr"' not in printed and "Error" not in printed
    assert str(notebook.parents[1]) not in printed and "/tmp/tmp" not in printed
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert content["cells"][0]["cell_type"] == "markdown" and "".join(content["cells"][0]["source"]).startswith("# ")
    assert "pip" in "".join(code[0]["source"]) and "find_spec" in "".join(code[0]["source"])


def stored(name: str) -> str:
    """Returns what a notebook's cells printed when it was stored."""
    cells = read(next(path for path in NOTEBOOKS if path.name == name))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    return "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")


@pytest.mark.parametrize("name", ["01_inference", "02_batch_inference", "03_interleaved_and_few_shot"])
def test_stored_outputs_are_those_of_the_shipped_weights(run, name):
    assert run(f"{name}.ipynb") == stored(f"{name}.ipynb")


def test_inference():
    said = stored("01_inference.ipynb")
    assert "How many shapes are there? -> 3" in said and "tokens are the image" in said


def test_batches_answer_as_one_by_one():
    said = stored("02_batch_inference.ipynb")
    assert "equal: True" in said
    assert said.count("tokens): ") == 5


def test_interleaved_and_few_shot():
    said = stored("03_interleaved_and_few_shot.ipynb")
    assert "tiles of each image: [" in said
    assert len(said.strip().splitlines()) >= 3


def test_looking_inside(run):
    for said in (run("06_looking_inside.ipynb"), stored("06_looking_inside.ipynb")):
        assert "chunk 0 (overview): prompt" in said and "chunk 4 (strip): prompt" in said
        assert re.search(r"after layer 5: .* has rank 0\n", said)
        assert "answers are exchanged: True" in said and "all pixels have a gradient: True" in said
        assert float(re.search(r"exact tiles: ([\d.]+) of 255", said)[1]) < 1.5


@pytest.mark.slow
def test_sft_with_lora(run):
    assert "<|end|>" in run("04_sft_lora.ipynb", epochs=1)


@pytest.mark.slow
def test_dpo(run):
    assert "margin" in run("05_dpo.ipynb", epochs=1)
