"""`xgenmm data`: the dry run on the command line."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf.cli.data import data
from xgenmm_hf.cli.errors import friendly_errors
from xgenmm_hf.data import preview


@pytest.fixture
def mixture(tmp_path):
    """Two records with an image, one of them unreadable, and a malformed one; one text."""
    Image.new("RGB", (300, 100)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"nothing")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bus."}]
    records = [{"image": "1.png", "conversations": turns}, {"image": "2.png", "conversations": turns}]
    (tmp_path / "a.json").write_text(json.dumps([*records, {"conversations": 3}]))
    turns = [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "No. " * 50}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    (tmp_path / "mixture.yaml").write_text("data: {a.json: 4, b.jsonl: all}\n")
    return tmp_path / "mixture.yaml"


def run(*arguments):
    app = typer.Typer()
    app.command("data")(friendly_errors(data))
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_text_files_and_json(mixture, tmp_path):
    options = ("--cache-dir", tmp_path / "cache", "--max-length", "120")
    result = run(mixture, "--output", tmp_path / "out", *options)
    assert result.exit_code == 1, result.output
    for text in ("5 chat rows from 2 source(s)", "rejected: 1 fields", "1 row(s) have an image"):
        assert text in result.stdout
    refusal = result.stderr.strip().splitlines()[-1]
    assert refusal.startswith("Training refuses a: 1 of 3 records are malformed (max_rejected 1.0%), see ")
    assert json.loads(Path(refusal.split(" see ")[1].rstrip(".")).read_text())["id"] == "2"
    assert "1 rows have more than 120 tokens" in result.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.json", "problems.jsonl", "lengths.png"}
    facts = json.loads(run(mixture, "--json", *options).stdout)
    assert facts["by_source"]["b"]["rows"] == 1
    assert facts["sources"][0]["rejected"] == {"fields": 1}


def test_a_data_file_is_shown_with_its_targets(mixture, tmp_path):
    result = run(tmp_path / "b.jsonl", "--show", "3", "--output", tmp_path / "out", "--cache-dir", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    shown = result.stdout[result.stdout.index("b/1") :]
    assert "<|user|>\nIs it?<|end|>" in shown
    assert "[[No. No." in shown and "<|end|>" in shown.split("[[")[1].split("]]")[0]
    assert "Is it?" not in shown.split("[[")[1]
    page = (tmp_path / "out" / "rows.html").read_text(encoding="utf-8")
    assert "&lt;|user|&gt;\nIs it?&lt;|end|&gt;" in page.split("<mark>")[0]
    assert page.split("<mark>")[1].startswith("No. No.")


def test_a_page_shows_images_or_why_they_cannot_be_read(mixture, tmp_path):
    run(tmp_path / "a.json", "--show", "2", "--output", tmp_path / "out", "--cache-dir", tmp_path / "cache")
    page = (tmp_path / "out" / "rows.html").read_text(encoding="utf-8")
    (source,) = re.findall(r'<img src="data:image/png;base64,([^"]+)">', page)
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        assert image.size == (300, 100)
    assert re.search("<p>The image .*2.png is not an image", page)


def test_what_it_refuses(mixture, tmp_path, monkeypatch):
    result = run(tmp_path / "nowhere.yaml")
    assert result.exit_code == 1
    assert "no mixture file" in result.stderr
    assert "no model at" in run(mixture, "--model", tmp_path / "nowhere").stderr
    monkeypatch.setattr(preview, "find_spec", lambda name: None if name == "matplotlib" else 1)
    result = run(mixture)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "needs matplotlib: install them with pip install 'xgenmm-hf[train]'" in result.stderr
