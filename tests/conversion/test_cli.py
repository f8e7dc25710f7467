"""`xgenmm convert` and `xgenmm export` as a user types them."""

import json
import os
import signal
from pathlib import Path

import forked
import pytest
from typer.testing import CliRunner

from xgenmm_hf.cli.app import app


def xgenmm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_there_and_back(source: Path, tmp_path: Path) -> None:
    converted = xgenmm("convert", source, tmp_path / "ours", "--dtype", "bfloat16", "--max-shard-size", "1MB")
    assert converted.exit_code == 0, converted.stderr
    assert "124 tensors" in converted.stdout
    assert "bfloat16" in converted.stdout
    assert "vlm.vision_encoder.head.probe" in converted.stdout
    assert converted.stderr.startswith("note: No tokenizer files")
    exported = xgenmm("export", tmp_path / "ours", tmp_path / "back")
    assert exported.exit_code == 0, exported.stderr
    assert exported.stderr == ""
    assert "127 tensors" in exported.stdout
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "bfloat16"


CONVERT_SLOWLY = """
import sys, time
from xgenmm_hf.conversion import writer
assemble = writer.assemble
writer.assemble = lambda *given: (print("writing", flush=True), time.sleep(0.2), assemble(*given))[2]
from xgenmm_hf.cli.app import app
app(["convert", *sys.argv[1:]])
"""


def test_sigterm_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with forked.Program(["-c", CONVERT_SLOWLY, source, tmp_path / "out"]) as program:
        assert program.wait_for_line() == "writing"
        os.kill(program.pid, signal.SIGTERM)
        assert program.wait() == 143, program.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("convert", "{source}", "{source}"), 1, "not empty"),
        (("convert", "{tmp}/nowhere", "{tmp}/out"), 1, "no file or folder"),
        (("convert", "{tmp}", "{tmp}/out"), 1, "holds no weights"),
        (("convert", "{source}", "{tmp}/out", "--max-shard-size", "big"), 1, "is no size"),
        (("convert", "{source}", "{tmp}/out", "--vision-config", "{tmp}/none.json"), 1, "none.json"),
        (("convert", "{source}", "{tmp}/out", "--config", "{tmp}/none.json"), 1, "none.json"),
        (("convert", "{source}", "{tmp}/out", "--tokenizer", "{tmp}"), 1, "tokenizer"),
        (("convert", "{source}", "{tmp}/out", "--dtype", "int4"), 2, "int4"),
        (("convert", "{source}", "{tmp}/out", "--image-mode", "tiles"), 2, "tiles"),
        (("convert", "{source}"), 2, "out"),
        (("export", "{source}", "{tmp}/out"), 1, "not of this package's layout"),
    ],
)
def test_failures(source: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = xgenmm(*(argument.format(source=source, tmp=tmp_path) for argument in arguments))
    assert result.exit_code == code
    assert message in result.stderr.lower() or message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    if code == 1:
        assert result.stderr.count("\n") == 1
