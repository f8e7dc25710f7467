"""The README's snippet runs, and what it names exists."""

import contextlib
import io
import re
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf.cli.app import app


ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_snippet_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "red").save("photo.png")
    snippet = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "README.md", "exec"), {})
    assert printed.getvalue().strip()


def test_files_and_targets_that_the_readme_names_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_verbs_that_the_readme_names_exist():
    for verb in set(re.findall(r"^\| `xgenmm (\w+)", README, flags=re.MULTILINE)):
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0, verb


def test_supported_versions_are_those_of_setup_and_constraints():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "transformers>=4.57,<6" in setup
    assert ">= 4.57, < 6" in README
    tested = re.search(r"^torch==(\S+)$", constraints, flags=re.MULTILINE)[1]
    assert f"| PyTorch | {tested} |" in README
