"""Schemathesis sends what the API's description allows and what it forbids, and checks the answers against it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from serving import run_server


pytestmark = pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis")
SUPPORT = Path(__file__).resolve().parents[2] / "support"


@pytest.mark.slow
def test_schemathesis_has_no_finding(loaded, tmp_path):
    with run_server(loaded, api_key="secret", max_images=1000, max_new_tokens=8, default_new_tokens=8) as running:
        address = f"http://127.0.0.1:{running.port}/openapi.json"
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(SUPPORT / "schemathesis.toml"),
            "run",
        ]
        options = ["-H", "Authorization: Bearer secret", "--seed", "1", "--max-examples", "12", "--no-color"]
        paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, address, *options],
            env={**os.environ, "PYTHONPATH": paths, "SCHEMATHESIS_HOOKS": "schemathesis_hooks"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        value = running.service.metrics.registry.get_sample_value
        assert value("xgenmm_requests_total", {"status": "200"}) > 0
        assert running.request("GET", "/health")[0] == 200
