"""``xgenmm push``: the dry run contacts nothing, and mistakes are found before anything is sent."""

import json

import pytest
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.app import app
from xgenmm_hf.hub import push as sending


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(sending, "push", lambda *arguments, **options: pytest.fail("something was sent"))


def test_a_dry_run_shows_what_would_be_sent():
    result = CliRunner().invoke(app, ["push", TINY_MODEL, "someone/tiny", "--license", "mit", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "model.safetensors" in result.output and "modeling_xgenmm.py" in result.output
    assert "license: mit" in result.output and "pushed" not in result.output


def test_a_dry_run_as_json():
    options = ["--license", "mit", "--dataset", "a/b", "--base-model", "c/d", "--dry-run", "--json"]
    record = json.loads(CliRunner().invoke(app, ["push", TINY_MODEL, "someone/tiny", *options]).output)
    assert record["repository"] == "someone/tiny" and record["commit"] is None
    assert record["bytes"] == sum(record["files"].values())
    assert "base_model: c/d" in record["card"] and "- a/b" in record["card"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([TINY_MODEL, "someone/tiny"], "--license"),
        ([TINY_MODEL, "tiny", "--license", "mit"], "organisation/name"),
        (["nowhere", "someone/tiny", "--license", "mit"], "There is no folder nowhere"),
        ([TINY_MODEL, "a/b", "--license", "mit", "--results", "none.json"], "There is no result file at none.json"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys):
    result = CliRunner().invoke(app, ["push", *arguments])
    assert result.exit_code == 1
    assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1
