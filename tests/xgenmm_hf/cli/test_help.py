"""Help and usage errors, without loading anything heavy."""

import json
import logging
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from xgenmm_hf import __version__
from xgenmm_hf.cli.app import app


VERBS = (
    "ask",
    "info",
    "convert",
    "export",
    "recipes",
    "data",
    "train",
    "eval",
    "explain",
    "chat",
    "serve",
    "demo",
    "push",
    "generate",
)


@pytest.mark.parametrize("arguments", [(), *((verb,) for verb in VERBS)], ids=" ".join)
def test_help(arguments):
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["ask", "--help"], ["convert", "--help"], ["ask", "--nope"]]
)
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        "from xgenmm_hf.cli.app import main\n"
        f"sys.argv = ['xgenmm', *{arguments!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert {"torch", "transformers", "numpy", "PIL", "safetensors", "huggingface_hub"}.isdisjoint(loaded)
    assert len(loaded) < 900


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"xgenmm {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["ask", "--nope"],
        ["ask", "--max-new-tokens", "0"],
        ["ask", "--dtype", "int8"],
        ["info", "--image-size", "0x10"],
        ["info", "--image-size", "large"],
        ["convert"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_verb_silences_nothing_after_its_end(caplog):
    assert CliRunner().invoke(app, ["recipes"]).exit_code == 0
    logging.getLogger("xgenmm_hf").warning("still heard")
    assert "still heard" in caplog.text
