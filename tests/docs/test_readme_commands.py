"""The README's commands, run as they are written: an answer, a chat, the page, and an adapter tuned on ten rows."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import forked
import pytest
from PIL import Image, ImageDraw


ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- not run: needs a released checkpoint.*?-->\n)?^```sh\n(.*?)^```$", re.M | re.S)
# What makes the environment that this test runs in; `make demo` has a line of its own in continuous integration.
SET_UP = ("make ", "source ", "pip ")
ADDRESS = re.compile(r"http://[\d.]+:\d+")


def commands():
    lines = [
        line.split("  #")[0].strip()
        for left_out, body in BLOCK.findall(README)
        if not left_out
        for line in body.splitlines()
    ]
    return [line for line in lines if line and not line.startswith(SET_UP)]


def open_the_page(command):
    with forked.Program(command) as server:
        address = ADDRESS.search(server.wait_for_line())[0]
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read().decode()


@pytest.mark.slow
def test_the_commands_lead_where_the_readme_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    photo = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(photo).ellipse((12, 12, 52, 52), fill="red")
    photo.save("photo.png")
    row = json.loads(re.search(r"```json\n(.*?)```", README, re.S)[1])[0]
    row["conversations"][1]["value"] = (
        "blue star"  # words that the embedded model knows, in an answer it would not give
    )
    Path("rows.json").write_text(json.dumps([row] * 10))

    said = {}
    for command in commands():
        program, *arguments = shlex.split(command)
        assert program == "xgenmm"
        entry = ["-c", "from xgenmm_hf.cli.app import main; main()", *arguments]
        if arguments[0] == "demo":
            said[command] = open_the_page(entry)
            continue
        turns = "What color is the circle?\n/exit\n" if arguments[0] == "chat" else ""
        if not said:  # the first one as the shell starts it
            done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        else:
            done = forked.run(entry, stdin=turns)
        assert done.returncode == 0, (command, done.stderr)
        said[command] = done.stdout
    describe, chat, page, _, _, tuned = said.values()
    assert "red circle" in describe
    assert "red" in chat
    assert "gradio" in page
    assert tuned.strip() == "blue star"
