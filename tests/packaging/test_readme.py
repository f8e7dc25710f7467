"""The README's snippet runs, and what it names exists."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import typer

import xgenmm_hf
from xgenmm_hf.cli.app import app


ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "xgenmm_hf" / "assets" / "images"
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
VERSIONS = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")


def test_the_first_snippet_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))[2]
    shutil.copyfile(IMAGES / shown["image"], "photo.png")
    snippet = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "README.md", "exec"), {})
    assert printed.getvalue().strip() == shown["caption"]


def test_files_and_targets_that_the_readme_names_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_a_newcomer_reads_the_readme_in_two_minutes():
    assert README.count("\n") <= 150


def test_every_verb_is_documented_and_every_documented_verb_exists():
    documented = set(re.findall(r"^\| `xgenmm (\w+)", COMMANDS, flags=re.MULTILINE))
    assert documented == set(typer.main.get_command(app).commands)


def test_public_names_are_documented():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert {name for name in xgenmm_hf.__all__ if not name.startswith("__")} <= set(re.findall(r"`(\w+)`", page))


def test_supported_versions_are_those_of_setup_and_constraints():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "transformers>=4.57.1,<6" in setup
    assert ">= 4.57.1, < 6" in VERSIONS
    tested = re.search(r"^torch==(\S+)$", constraints, flags=re.MULTILINE)[1]
    assert f"| PyTorch | {tested} |" in VERSIONS
