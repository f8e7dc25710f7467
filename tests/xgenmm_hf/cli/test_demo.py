"""``xgenmm demo``: what it checks before it loads anything, and what it does with its options."""

import importlib.util

import pytest
import torch
from typer.testing import CliRunner

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL
from xgenmm_hf.cli.app import app
from xgenmm_hf.cli.demo import demo


def test_without_gradio_the_way_out_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else find(name, *rest)
    )
    with pytest.raises(ValueError, match=r"pip install .*\[demo\]"):
        demo()


def test_a_wrong_model_fails_at_once(monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    with pytest.raises(ValueError, match="no model at"):
        demo(model=[TINY_MODEL, str(tmp_path / "nowhere")])


def test_wrong_port_is_wrong_usage():
    assert CliRunner().invoke(app, ["demo", "--port", "70000"]).exit_code == 2


def test_it_listens_on_loopback_unless_told_otherwise(monkeypatch, capsys):
    pytest.importorskip("gradio")
    from xgenmm_hf.demo import page as page_module

    seen = {}

    class Page:
        is_running = True

        def close(self, verbose):
            seen["closed"] = True

    def launch(page, **options):
        seen.update(options)
        page.is_running = False
        return None, "http://127.0.0.1:1/", None

    def build(loaded, name, others):
        seen.update(models={name: loaded, **others})
        return Page()

    monkeypatch.setattr(page_module, "build_page", build)
    monkeypatch.setattr(page_module, "launch_page", launch)
    result = CliRunner().invoke(app, ["demo", "--model", TINY_MODEL, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "Open http://127.0.0.1:1/" in result.output
    assert seen["server_name"] == "127.0.0.1" and seen["share"] is False and seen["closed"]
    assert list(seen["models"]) == ["the embedded model", "the embedded base model"]
    assert not torch.equal(*(one.model.lm_head.weight for one in seen["models"].values()))
    result = CliRunner().invoke(app, ["demo", "--model", TINY_BASE_MODEL, "--model", TINY_MODEL, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert list(seen["models"]) == [TINY_BASE_MODEL, TINY_MODEL]
