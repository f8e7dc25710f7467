"""To the Hub and back over the real client, with a stand-in of the Hub on this machine."""

import json
import os
import re
import shutil

import forked
import pytest
import torch
from local_hub import TOKEN, serve_hub
from PIL import Image
from safetensors.torch import load_file, save_file

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.asking import ask
from xgenmm_hf.inference.loading import load
from xgenmm_hf.modeling.remote_code_xgenmm import copy_remote_code


REPOSITORY = "someone/tiny"
# Several command lines, each as a list, in one process; what each printed and its exit code.
COMMANDS = """
import contextlib, io, json, os, sys
from xgenmm_hf.cli.app import main
done = []
for token, *arguments in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    sys.argv = ["xgenmm", *arguments]
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
    done.append([code, output.getvalue(), errors.getvalue()])
print(json.dumps(done))
"""
# What a stranger does: the card's code, without the package; then a branch, and once more without the network.
USE = """
import sys
sys.modules["xgenmm_hf"] = None  # importing it fails
import contextlib, io, json, pathlib
code, revision = sys.argv[1:]
said = io.StringIO()
with contextlib.redirect_stdout(said):
    exec(code, {})
from huggingface_hub import constants
from transformers import AutoModelForImageTextToText
options = {"trust_remote_code": True, "code_revision": revision}
branch = AutoModelForImageTextToText.from_pretrained("someone/tiny", revision=revision, **options)
import huggingface_hub
huggingface_hub.constants.HF_HUB_OFFLINE = True
options["local_files_only"] = True
cached = AutoModelForImageTextToText.from_pretrained("someone/tiny", revision=revision, **options)
bias = [float(model.lm_head.bias.float().sum()) for model in (branch, cached)]
print(json.dumps({"said": said.getvalue(), "bias": bias, "cache": constants.HF_HUB_CACHE}))
"""


@pytest.fixture
def hub():
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def environment(hub, tmp_path):
    """Settings of a process that knows only the stand-in."""
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    gone = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HUGGING_FACE_HUB_TOKEN")
    kept = {
        name: value for name, value in os.environ.items() if name not in gone and not name.lower().endswith("_proxy")
    }
    return {**kept, **settings}


@pytest.fixture
def run(environment, tmp_path):
    """Returns a function that runs a program where only the stand-in is known; it returns the last line."""
    with forked.others_with(environment) as server:

        def run_program(*command):
            done = forked.run(["-c", *command], env=environment, cwd=tmp_path, server=server)
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()[-1]

        yield run_program


@pytest.mark.slow
def test_to_the_hub_and_back(hub, environment, run, tmp_path):
    folder, other = tmp_path / "checkpoint", tmp_path / "other"
    for copy in (folder, other):
        shutil.copytree(TINY_MODEL, copy)
    (folder / "optimizer.pt").write_bytes(b"state of a run")
    weights = load_file(other / "model.safetensors")
    weights["lm_head.bias"] = torch.zeros_like(weights["lm_head.bias"])
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    first = [str(folder), REPOSITORY, "--private", "--license", "apache-2.0", "--json"]
    second = [str(other), REPOSITORY, "--license", "apache-2.0", "--revision", "trial", "-m", "Trial"]
    refused = [TINY_MODEL, "someone/else", "--license", "mit"]
    told = ["info", REPOSITORY, "--provenance", "--json"]
    commands = [[TOKEN, "push", *first], [TOKEN, *told], [TOKEN, "push", *second], ["hf_other", "push", *refused]]
    done = json.loads(run(COMMANDS, json.dumps(commands)))
    assert [code for code, _, _ in done] == [0, 0, 0, 1], done

    pushed = json.loads(done[0][1])
    there = hub.files(REPOSITORY)
    assert hub.repositories[REPOSITORY]["private"]
    assert pushed["commit"].startswith(f"{hub.address}/{REPOSITORY}/commit/")
    assert {name: len(content) for name, content in there.items()} == pushed["files"]
    assert set(copy_remote_code(tmp_path)) < set(there) and "optimizer.pt" not in there
    assert hub.repositories[REPOSITORY]["messages"] == ["Upload with xgenmm-hf", "Trial"]
    assert pushed["commit"].endswith(json.loads(done[1][1])["provenance"]["checkpoint"]["commit"])
    assert "pushed: http" in done[2][1]
    assert done[3][2].startswith("error: The Hub does not let you write to someone/else (401)")
    assert "someone/else" not in hub.repositories

    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(tmp_path / "image.jpg")
    image = Image.open(tmp_path / "image.jpg").convert("RGB")
    code = re.search(r"```python\n(.*?)```", there["README.md"].decode(), re.DOTALL).group(1)
    used = json.loads(run(USE, code, "trial"))
    # The card's code computes in the checkpoint's own dtype.
    loaded = load(TINY_MODEL, dtype="float16", device="cpu")
    assert used["said"].strip() == ask(loaded, [image], "What is in this image?", max_new_tokens=128).text
    assert used["bias"] == [0.0, 0.0]
    assert used["cache"].startswith(environment["HF_HOME"])
