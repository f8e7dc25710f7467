"""The page docs/own-images.md, executed from the first block to the last: its score is reached."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xgenmm_hf.cli.app import app


PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-images.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.M | re.S)


@pytest.mark.slow
def test_the_page_leads_to_its_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ""
    for language, body in BLOCK.findall(PAGE.read_text()):
        if language == "python":
            exec(compile(body, PAGE.name, "exec"), {})
            continue
        for words in map(shlex.split, body.splitlines()):
            if words[0] != "xgenmm":
                asked += subprocess.run(words, capture_output=True, text=True, check=True).stdout
                continue
            done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
            assert done.exit_code == 0, done.output
            asked += done.output
    run = Path("my/runs/tiny-sft")
    score = json.loads((run / "all_results.json").read_text())["eval_exact_match"]
    answers = [json.loads(line) for line in (run / "eval_answers" / "step-150.jsonl").read_text().splitlines()]
    assert len(answers) == 12
    assert score == sum(answer["right"] for answer in answers) / 12
    assert score >= 0.9
    assert f"| eval_exact_match | {score:,.5g} |" in (run / "README.md").read_text()
    assert json.loads((run / "prompt_form.json").read_text()) == {"suffix": "", "system": None}
    assert asked.splitlines()[-1] in {"valve", "gauge", "relay", "fuse"}
