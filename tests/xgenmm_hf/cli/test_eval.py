"""`xgenmm eval` and `xgenmm compare` on the embedded model, alone and shared between processes."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.compare import compare
from xgenmm_hf.cli.eval import evaluate
from xgenmm_hf.errors import friendly_errors
from xgenmm_hf.evaluation.tasks import KINDS


IMAGES = Path(TINY_MODEL).parent / "images"
app = typer.Typer()
app.command("eval")(friendly_errors(evaluate))
app.command("compare")(friendly_errors(compare))


@pytest.fixture
def rows(tmp_path) -> Path:
    """Five questions about the shipped images, a missing image, a row without a question, and an id twice."""
    known = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))
    lines = [
        {
            "id": f"r{number}",
            "image": row["image"],
            "question": row["question"],
            "answer": row["answer"],
            "category": "word" if row["with_word"] else "shapes",
        }
        for number, row in enumerate(known)
    ]
    lines += [{**lines[0], "id": "gone", "image": "gone.png"}, {"id": "x", "image": lines[0]["image"]}, lines[1]]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ask(rows: Path, output: Path, *arguments: object):
    given = ("eval", "exact", rows, "--images", IMAGES, "-o", output, "--suffix", "", "--max-new-tokens", 24)
    return run(*given, *arguments)


def error_of(result) -> str:
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_scores_problems_and_files(rows, tmp_path):
    result = ask(rows, tmp_path / "out", "--html", 3)
    assert result.exit_code == 0, result.output
    assert "exact: 5 samples; 3 problems" in result.stdout
    assert "gone.png" in result.stdout
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    # The shipped images are those of the demo: the embedded model answers about all of them.
    assert found["scores"]["exact_match"] >= 0.8
    assert found["counts"] == {"evaluated": 5, "problems": 3, "resumed": 0}
    assert len(found["problems"]) == 3
    assert set(found["by_category"]) == {"word", "shapes"}
    report = (tmp_path / "out" / "results.md").read_text()
    assert "Problems (3 rows that do not count)" in report
    assert (tmp_path / "out" / "report.html").read_text().count("<article") == 3
    again = json.loads(ask(rows, tmp_path / "out", "--json").stdout)
    assert again["counts"] == {"evaluated": 5, "problems": 3, "resumed": 5}
    assert again["scores"] == found["scores"]
    assert again["output"] == str(tmp_path / "out")


def test_shots_with_a_support_and_by_retrieval(rows, tmp_path):
    for extra in ((), ("--retrieval",), ("--support", rows, "--seed", 3)):
        output = tmp_path / f"out{len(extra)}"
        result = ask(rows, output, "--shots", 2, "--limit", 2, "--image-mode", "none", *extra)
        assert result.exit_code == 0, result.output
        found = json.loads((output / "results.json").read_text())
        assert found["counts"]["evaluated"] == 2
        assert found["config"]["form"] == "base"
        for sample in found["samples"]:
            assert len(sample["shots"]) == 2
            assert sample["id"] not in sample["shots"]
            assert sample["prompt"].count("<|endofchunk|>") == 2


@pytest.mark.parametrize("shots", [0, 2])
def test_captions_and_probes(tmp_path, shots):
    known = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))
    captions = {
        "images": [{"id": number, "file_name": row["image"]} for number, row in enumerate(known)],
        "annotations": [{"id": n, "image_id": n, "caption": row["caption"]} for n, row in enumerate(known)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    probes = [
        {"question_id": n, "image": row["image"], "text": "Is there a star?", "label": ("yes", "no")[n % 2]}
        for n, row in enumerate(known)
    ]
    (tmp_path / "probes_popular.jsonl").write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    for kind, file, measure in (("coco_captions", "captions.json", "cider"), ("pope", "probes_popular.jsonl", "f1")):
        given = ("eval", kind, tmp_path / file, "--images", IMAGES, "-o", tmp_path / kind, "--shots", shots)
        result = run(*given, "--max-new-tokens", 8, "--image-mode", "none", "--json", "--limit", 3)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["counts"] == {"evaluated": 3, "problems": 0, "resumed": 0}
        assert measure in found["scores"]


def test_compare(rows, tmp_path):
    for shots in (0, 2):
        assert ask(rows, tmp_path / str(shots), "--form", "base", "--shots", shots).exit_code == 0
    result = run("compare", tmp_path / "0", tmp_path / "2", "-o", tmp_path / "c", "--resamples", 200)
    assert result.exit_code == 0, result.output
    assert "| exact_match | all | 5 |" in result.stdout
    names = {file.name for file in (tmp_path / "c").iterdir()}
    assert names == {"comparison.json", "comparison.md", "categories.png", "shots.png"}
    printed = run("compare", tmp_path / "0", tmp_path / "2", "--json", "--resamples", 200).stdout
    assert json.loads(printed) == json.loads((tmp_path / "c" / "comparison.json").read_text())


def test_what_goes_wrong_is_one_sentence(rows, tmp_path):
    out = tmp_path / "out"
    assert "There is no kind of task 'poem'" in error_of(run("eval", "poem", rows, "-o", out))
    assert "nowhere.jsonl" in error_of(run("eval", "exact", tmp_path / "nowhere.jsonl", "-o", out))
    assert "There is no model at" in error_of(ask(rows, out, "--model", tmp_path / "nowhere"))
    assert "--shots is 0" in error_of(ask(rows, out, "--support", rows))
    assert "shots is 0" in error_of(ask(rows, out, "--retrieval"))
    assert "more than 8 samples" in error_of(ask(rows, out, "--shots", 8))
    assert "no result file" in error_of(run("compare", out, out))
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n')
    assert "has no sample to ask" in error_of(run("eval", "exact", tmp_path / "bad.jsonl", "-o", out))
    assert not out.exists()


def test_images_that_turn_out_damaged_are_counted(rows, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for file in IMAGES.glob("*.png"):
        with Image.open(file) as image:
            image.save(folder / file.name)
    damaged = folder / "2-cafe.png"
    damaged.write_bytes(damaged.read_bytes()[:900])
    result = ask(rows, tmp_path / "out", "--images", folder, "--json")
    assert json.loads(result.stdout)["counts"] == {"evaluated": 4, "problems": 4, "resumed": 0}
    problems = json.loads((tmp_path / "out" / "results.json").read_text())["problems"]
    assert "damaged or cut short" in problems[-1]["reason"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_help_names_every_kind_of_task():
    shown = run("eval", "--help").output
    assert [kind for kind in KINDS if kind not in shown] == []


@pytest.mark.slow
def test_a_killed_run_goes_on(rows, tmp_path):
    given = ["exact", rows, "--images", IMAGES, "-o", tmp_path / "out", "--suffix", "", "--batch-size", 1]
    command = [str(part) for part in [sys.executable, "-m", "xgenmm_hf.evaluation", *given, "--device", "cpu"]]
    answers = tmp_path / "out" / "answers.jsonl"
    # Long answers of the base form leave time to kill it between two of them.
    with subprocess.Popen([*command, "--form", "base", "--max-new-tokens", "1500"]) as process:
        while process.poll() is None and (not answers.is_file() or answers.read_text().count("\n") < 2):
            time.sleep(0.01)
        process.kill()
    before = answers.read_text().count("\n")
    assert 2 <= before < 5
    assert not (tmp_path / "out" / "results.json").exists()
    with answers.open("a") as file:
        file.write('{"id": "r4", "ke')
    result = run("eval", *given, "--device", "cpu", "--form", "base", "--max-new-tokens", 1500, "--json")
    assert json.loads(result.stdout)["counts"] == {"evaluated": 5, "problems": 3, "resumed": before}
    assert sorted(json.loads(line)["id"] for line in answers.read_text().splitlines()) == [f"r{n}" for n in range(5)]


@pytest.mark.slow
def test_two_processes_share_the_work(rows, tmp_path):
    assert ask(rows, tmp_path / "one").exit_code == 0
    # What `accelerate launch` starts on several GPUs; on CPUs it would start one process.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    given = ["exact", rows, "--images", IMAGES, "-o", tmp_path / "two", "--suffix", "", "--max-new-tokens", "24"]
    command = [str(part) for part in [*launch, "-m", "xgenmm_hf.evaluation", *given, "--device", "cpu"]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("5 samples; 3 problems") == 1
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert two["config"]["processes"] == 2
    assert two["samples"] == one["samples"]
    lines = [len(file.read_text().splitlines()) for file in sorted((tmp_path / "two").glob("answers*.jsonl"))]
    assert sorted(lines) == [2, 3]
