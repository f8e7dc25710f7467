"""vLLM itself, on a CPU, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engine_requests import CHATS


HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 16}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = find_spec("vllm") is None
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            if missing:
                item.add_marker(pytest.mark.skip(reason="vLLM has an environment of its own: make test-vllm"))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Variables of vLLM's processes."""
    return ENVIRONMENT


@pytest.fixture(scope="session")
def requests() -> list[dict[str, Any]]:
    """Chats of every kind."""
    return [{"messages": messages, "max_tokens": 64} for messages in CHATS.values()]


@pytest.fixture(scope="session")
def ask_vllm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[list[dict[str, Any]]]]:
    """Answers groups of requests with an engine that is started for them."""

    def ask(model: str | Path, *groups: list[dict[str, Any]], **engine: Any) -> list[list[dict[str, Any]]]:
        folder = tmp_path_factory.mktemp("engine")
        arguments = {**ENGINE, "model": str(model), "limit_mm_per_prompt": {"image": 3}, **engine}
        task = {"engine": arguments, "groups": groups}
        (folder / "requests.json").write_text(json.dumps(task))
        files = [str(folder / name) for name in ("requests.json", "answers.json")]
        command = [sys.executable, str(HERE / "answer.py"), *files]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                command, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(timeout=1800)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        assert code == 0, (folder / "log").read_text()[-6000:]
        return json.loads((folder / "answers.json").read_text())

    return ask
