"""The Space's folder: its page builds, and what it says agrees with the package."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

import xgenmm_hf


ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "examples" / "space"


def test_the_page_builds_without_being_launched(monkeypatch):
    gradio = pytest.importorskip("gradio", reason="the page needs Gradio")
    monkeypatch.setenv("XGENMM_MODEL", "")
    page = runpy.run_path(str(SPACE / "app.py"))["demo"]
    assert isinstance(page, gradio.Blocks)
    (model,) = (block for block in page.blocks.values() if block.elem_id == "model")
    assert model.value == "the embedded model"


def test_another_model_is_named_by_a_variable(monkeypatch):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    monkeypatch.setenv("XGENMM_MODEL", f"{xgenmm_hf.TINY_MODEL}/nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        runpy.run_path(str(SPACE / "app.py"))


def test_requirements_are_the_packages():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = re.search(r"install_requires=\[(.*?)\]", setup, re.DOTALL).group(1)
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == re.findall(r'"([^"]+)"', block)


def test_metadata_names_the_app():
    settings = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert settings["sdk"] == "gradio" and (SPACE / settings["app_file"]).is_file()
    assert int(settings["sdk_version"].split(".")[0]) == 6
