"""``xgenmm bench``: options to a setting, the table, the file, and what it refuses."""

import json

import pytest
import torch
from bench import limits
from typer.testing import CliRunner

from xgenmm_hf.cli.app import app


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch):
    monkeypatch.setattr(limits, "SIDES", {"cpu": (64,)})
    monkeypatch.setattr(limits, "COPIED", {"cpu": 2**16})


def run(*arguments: str):
    return CliRunner().invoke(app, ["bench", "--preset", "tiny", "--device", "cpu", "--runs", "1", *arguments])


def test_table_and_file(tmp_path):
    file = tmp_path / "bench.json"
    result = run("--only", "tower", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "tiles/s" in result.output and "limits:" in result.output
    record = json.loads(file.read_text())
    assert record["preset"] == "tiny" and record["dtype"] == "float32"
    assert record["machine"]["libraries"]["torch"] == torch.__version__


def test_markdown():
    result = run("--only", "resampler", "--markdown")
    assert result.exit_code == 0 and result.output.startswith("| part | case |")


def test_a_wrong_part_is_one_sentence():
    result = run("--only", "towr")
    assert result.exit_code == 1
    assert "There is no part 'towr'; there are images, tower" in result.output


def test_a_document_holds_everything(tmp_path):
    result = run("--document", str(tmp_path), "--only", "tower")
    assert result.exit_code == 1 and "leave --only and --curves out" in result.output
