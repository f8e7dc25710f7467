"""`xgenmm serve` as a process: ready, stopped, and wrong from the start."""

import http.client
import json
import os
import re
import signal
import sys
from importlib.util import find_spec

import forked
import pytest
from typer.testing import CliRunner

from xgenmm_hf.cli import serve as serve_module
from xgenmm_hf.cli.app import app


needs_server = pytest.mark.skipif(find_spec("uvicorn") is None, reason="needs the serve extra")


def error_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
    assert result.exit_code == 1, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(serve_module, "NEEDED", ("no_such_package",))
    assert "pip install 'xgenmm-hf[serve]'" in error_of()


@needs_server
def test_wrong_from_the_start(tmp_path):
    assert "There is no model at" in error_of("--model", "nowhere")
    assert "image_root" in error_of("--image-root", str(tmp_path / "none"))
    assert CliRunner().invoke(app, ["serve", "--max-batch", "0"]).exit_code == 2


@needs_server
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_running_answer_is_finished_when_the_server_is_told_to_stop():
    with forked.Program(["-c", "from xgenmm_hf.cli.app import main; main()", "serve", "--port", "0"]) as program:
        ready = r"Serving tiny at http://127\.0\.0\.1:(\d+)/v1 in float32 \(.+\); Ctrl-C stops"
        port = int(re.fullmatch(ready, program.wait_for_line())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Describe this image."}],
            "max_tokens": 1500,
            "temperature": 2,
            "seed": 3,
            "stream": True,
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        first = response.readline()
        os.kill(program.pid, signal.SIGTERM)
        rest = response.read().decode()
        assert first.startswith(b"data: ")
        assert rest.endswith("data: [DONE]\n\n")
        program.wait(60)
        assert program.stderr == ""
