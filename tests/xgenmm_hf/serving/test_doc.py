"""What docs/serving.md shows works."""

import re
import shlex
from pathlib import Path

import pytest
from serving import run_server
from typer.testing import CliRunner

from xgenmm_hf.cli.app import app


ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_client_of_the_example(loaded, monkeypatch, capsys):
    pytest.importorskip("openai")
    monkeypatch.chdir(ROOT)
    with run_server(loaded) as running:
        for block in (block for block in blocks("python") if "openai" in block):  # the others ask other servers
            exec(compile(block.replace(":8000", f":{running.port}"), "serving.md", "exec"), {})
    assert re.fullmatch(r"orange \d+\norange", capsys.readouterr().out.strip())


def test_options_and_metrics_that_are_named_exist(loaded):
    wide = {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    known = {verb: CliRunner().invoke(app, [verb, "--help"], env=wide).output for verb in ("serve", "chat")}
    commands = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    for words in (words for words in commands if words[:1] == ["xgenmm"] and words[1] != "run"):
        for option in (word for word in words[2:] if word.startswith("--")):
            assert option in known[words[1]], option
    limits = TEXT[TEXT.index("### Limits") : TEXT.index("### Safety")]
    for option in re.findall(r"`(--[a-z-]+)", limits):
        assert option in known["serve"], option
    with run_server(loaded) as running:
        values = running.request("GET", "/metrics")[1]
    for name in re.findall(r"`(xgenmm_\w+)", TEXT[TEXT.index("### Metrics") : TEXT.index("### Stopping")]):
        assert name in values, name


def test_defaults_that_are_stated_are_the_defaults():
    from xgenmm_hf.serving.settings import Settings

    settings = Settings(name="a")
    limits = TEXT[TEXT.index("### Limits") : TEXT.index("### Safety")]
    for value in (settings.max_batch, settings.max_batch_tokens, settings.max_waiting, settings.max_new_tokens):
        assert str(value) in limits
    assert f"{settings.max_images} images, {settings.max_pixels // 10**6} million pixels together" in limits
    assert f"{settings.max_body_mib} MiB" in limits
    assert f"{settings.max_seconds:.0f} s per request" in limits
    assert f"default {settings.default_new_tokens}" in TEXT
