"""`xgenmm eval` on the embedded model, alone and shared between processes."""

import json
import shutil
import socket
import time
from pathlib import Path

import forked
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.errors import friendly_errors
from xgenmm_hf.cli.eval import evaluate
from xgenmm_hf.evaluation.tasks import KINDS


IMAGES = Path(TINY_MODEL).parent / "images"
app = typer.Typer()
app.command("eval")(friendly_errors(evaluate))
app.command("other")(lambda: None)


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


def plain(rows: Path, output: Path) -> tuple[object, ...]:
    return ("eval", "own", rows, "--images", IMAGES, "-o", output, "--max-new-tokens", 24)


def ask(rows: Path, output: Path, *arguments: object):
    return run(*plain(rows, output), "--suffix", "", *arguments)


def error_of(result) -> str:
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_scores_problems_and_files(rows, tmp_path):
    result = ask(
        rows,
        tmp_path / "out",
    )
    assert result.exit_code == 0, result.output
    assert "own: 5 samples; 3 problems" in result.stdout
    assert "gone.png" in result.stdout
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    # The shipped images are those of the demo: the embedded model answers about all of them.
    assert found["scores"]["exact_match"] >= 0.8
    assert found["counts"] == {"evaluated": 5, "problems": 3, "resumed": 0}
    assert len(found["problems"]) == 3
    assert set(found["by_category"]) == {"word", "shapes"}
    assert "  word exact_match" in result.stdout
    again = json.loads(ask(rows, tmp_path / "out", "--json").stdout)
    assert again["counts"] == {"evaluated": 5, "problems": 3, "resumed": 5}
    assert again["scores"] == found["scores"]
    assert again["output"] == str(tmp_path / "out")


def test_shots_with_a_support(rows, tmp_path):
    for extra in ((), ("--support", rows, "--seed", 3)):
        output = tmp_path / f"out{len(extra)}"
        result = run(*plain(rows, output), "--shots", 2, "--limit", 2, "--image-mode", "none", *extra)
        assert result.exit_code == 0, result.output
        found = json.loads((output / "results.json").read_text())
        assert found["counts"]["evaluated"] == 2
        assert found["config"]["form"] == "base"
        for sample in found["samples"]:
            assert len(sample["shots"]) == 2
            assert sample["id"] not in sample["shots"]
            assert sample["prompt"].count("<|endofchunk|>") == 2


@pytest.mark.parametrize("shots", [0, 2])
def test_captions_by_both_protocols(tmp_path, shots):
    known = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))
    captions = {
        "images": [{"id": number, "file_name": row["image"]} for number, row in enumerate(known)],
        "annotations": [{"id": n, "image_id": n, "caption": row["caption"]} for n, row in enumerate(known)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    for protocol in ("xgenmm", "openflamingo"):
        given = ("eval", "coco_captions", tmp_path / "captions.json", "--images", IMAGES, "-o", tmp_path / protocol)
        options = ("--shots", shots, "--protocol", protocol, "--max-new-tokens", 8, "--image-mode", "none")
        result = run(*given, *options, "--json", "--limit", 3, "--form", "base")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["counts"] == {"evaluated": 3, "problems": 0, "resumed": 0}
        assert "cider" in found["scores"]
        assert found["task"]["rule"]
        assert found["prompt"]["rendered"] == {"xgenmm": "<image>", "openflamingo": "<image>Output:"}[protocol]


def test_the_docs_commands_for_in_context_questions_and_safety(tmp_path):
    """The commands of docs/evaluation.md on five rows in the published form."""
    known = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))

    def write(name: str, content: object) -> Path:
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path / name

    asked = [{"question_id": n, "image": row["image"], "question": row["question"]} for n, row in enumerate(known)]
    answers = [[row["answer"]] * 10 for row in known]
    questions = write("questions.json", {"questions": asked})
    said = [{"question_id": n, "answers": [{"answer": one} for one in ten]} for n, ten in enumerate(answers)]
    annotations = write("annotations.json", {"annotations": said})
    text = write("TextVQA.json", {"data": [{**row, "answers": ten} for row, ten in zip(asked, answers, strict=True)]})
    turn = {"instruction": "Mock it.", "response": "I cannot."}
    unsafe = [{"id": "1", "image": known[0]["image"], "safe": False, "instr-resp": [turn]}]
    shots = ("--shots", 4, "--image-mode", "none", "--support-images", IMAGES)
    for kind, files, options, measure in (
        (
            "vqav2",
            (questions, annotations),
            (*shots, "--support", questions, "--support", annotations),
            "vqa_accuracy",
        ),
        ("okvqa", (questions, annotations), shots, "vqa_accuracy"),
        ("textvqa", (text,), (*shots, "--support", text), "vqa_accuracy"),
        ("vlguard", (write("test.json", unsafe),), (), "attack_success"),
    ):
        given = ("--images", IMAGES, "-o", tmp_path / kind, "--limit", 1, "--max-new-tokens", 4)
        result = run("eval", kind, *files, *given, *options, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert (found["counts"]["evaluated"], found["prompt"]["shots"]) == (1, 4 if options else 0)
        assert measure in found["scores"]


def test_a_tuned_model_is_asked_as_its_training_rows_were(rows, tmp_path):
    model = tmp_path / "tuned"
    shutil.copytree(TINY_MODEL, model)
    usual = "\nAnswer the question using a single word or phrase."

    def asked(name: str, *options: object) -> str:
        done = run(*plain(rows, tmp_path / name), "--model", model, "--limit", 1, "--json", *options)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["prompt"]["rendered"]

    assert usual in asked("unknown")
    (model / "prompt_form.json").write_text('{"suffix": "", "system": "Be brief."}')
    assert asked("plain").startswith("<|system|>\nBe brief.<|end|>\n<|user|>\n")
    assert usual not in asked("plain")
    assert usual in asked("told", "--suffix", usual)
    (model / "prompt_form.json").write_text('{"suffix": "\\nOne word.", "system": null}')
    assert asked("suffix").endswith("{question}\nOne word.<|end|>\n<|assistant|>\n")
    assert asked("released", "--system", "none").startswith("<|user|>")


def test_the_prompt_in_force_is_said_and_stored(rows, tmp_path):
    first = ask(rows, tmp_path / "out", "--limit", 1, "--system", "Be brief.")
    assert first.exit_code == 0, first.output
    assert "prompt in force (chat form, xgenmm):\n<|system|>\nBe brief.<|end|>" in first.stderr
    stored = json.loads((tmp_path / "out" / "results.json").read_text())["prompt"]
    assert stored["rendered"].endswith("<image>\n{question}<|end|>\n<|assistant|>\n")
    assert stored["suffixes"] == [""]
    assert "note:" not in first.stderr
    none = json.loads(ask(rows, tmp_path / "none", "--limit", 1, "--system", "none", "--json").stdout)
    assert none["prompt"]["rendered"].startswith("<|user|>")
    second = run(*plain(rows, tmp_path / "out"), "--limit", 1, "--system", "Be brief.")
    assert "another prompt (suffixes, rendered)" in second.stderr


def test_names_and_options_are_handed_to_the_harness(monkeypatch):
    given = []
    monkeypatch.setattr("xgenmm_hf.evaluation.harness.launch.run_harness", lambda run, announce: given.append(run))
    run("eval", "--harness", "vlmevalkit", "--data", "MME", "POPE", "-o", "out", "--", "--judge", "exact_matching")
    run("eval", "--tasks", "pope,mme", "--batch-size", 4, "--system", "none")
    assert [one.harness for one in given] == ["vlmevalkit", "lmms-eval"]
    assert [one.names for one in given] == [["MME", "POPE"], ["pope", "mme"]]
    assert given[0].further == ["--judge", "exact_matching"]
    assert given[1].options["batch_size"] == 4
    assert (given[1].options["system"], given[1].options["overlong"]) == ("none", "skip")
    assert "--tasks to --harness lmms-eval" in error_of(run("eval", "--harness", "lmms-eval", "--data", "MME"))
    monkeypatch.undo()
    monkeypatch.setattr("xgenmm_hf.evaluation.harness.launch.find_spec", lambda name: None)
    assert "VLMEvalKit is not installed" in error_of(run("eval", "--data", "MME"))
    assert "pip install lmms-eval" in error_of(run("eval", "--tasks", "mme"))
    assert "Name what to measure" in error_of(run("eval", "--harness", "vlmevalkit"))


def test_an_adapter_folder_is_a_model(rows, tmp_path):
    from peft import LoraConfig, get_peft_model

    from xgenmm_hf.inference.loading import load

    loaded = load(TINY_MODEL, device="cpu")
    tuned = get_peft_model(
        loaded.model, LoraConfig(target_modules=["o_proj"], r=2, lora_alpha=64, init_lora_weights=False)
    )
    tuned.peft_config["default"].base_model_name_or_path = TINY_MODEL
    tuned.save_pretrained(tmp_path / "adapter")
    loaded.processor.save_pretrained(tmp_path / "adapter")
    results = {}
    for name in (TINY_MODEL, tmp_path / "adapter"):
        result = ask(rows, tmp_path / Path(name).name, "--model", name, "--json", "--limit", 3)
        assert result.exit_code == 0, result.output
        results[Path(name).name] = json.loads(result.stdout)
    shas = {result["checkpoint"]["sha256"] for result in results.values()}
    assert len(shas) == 2
    answers = {
        name: [one["answer"] for one in json.loads((tmp_path / name / "results.json").read_text())["samples"]]
        for name in results
    }
    assert len(set(map(tuple, answers.values()))) == 2
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere"}')
    assert "no model at /nowhere" in error_of(ask(rows, tmp_path / "x", "--model", tmp_path / "adapter"))


def test_what_goes_wrong_is_one_sentence(rows, tmp_path):
    out = tmp_path / "out"
    assert "has no kind of task 'poem'" in error_of(run("eval", "poem", rows, "-o", out))
    assert "--data MMStar --model MODEL" in error_of(run("eval", "mmstar", rows, "-o", out))
    assert "nowhere.jsonl" in error_of(run("eval", "own", tmp_path / "nowhere.jsonl", "-o", out))
    assert run("eval", "own", rows).exit_code == 2
    assert "no system turn and no suffix" in error_of(ask(rows, out, "--shots", 2))
    assert "There is no model at" in error_of(ask(rows, out, "--model", tmp_path / "nowhere"))
    assert "--shots is 0" in error_of(ask(rows, out, "--support", rows))
    assert "more than 8 samples" in error_of(run(*plain(rows, out), "--shots", 8))
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n')
    assert "has no sample to ask" in error_of(run("eval", "own", tmp_path / "bad.jsonl", "-o", out))
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
    given = ["own", rows, "--images", IMAGES, "-o", tmp_path / "out", "--batch-size", 1]
    command = ["-m", "xgenmm_hf.cli.eval", *given, "--device", "cpu"]
    answers = tmp_path / "out" / "answers.jsonl"
    # Long answers of the base form leave time to kill it between two of them.
    with forked.Program([*command, "--form", "base", "--max-new-tokens", "1500"]) as process:
        while process.poll() is None and (not answers.is_file() or answers.read_text().count("\n") < 2):
            time.sleep(0.01)
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
    given = ["own", rows, "--images", IMAGES, "-o", tmp_path / "two", "--suffix", "", "--max-new-tokens", "24"]
    done = forked.run_ranks(["-m", "xgenmm_hf.cli.eval", *given, "--device", "cpu"], 2, free_port())
    assert [rank.returncode for rank in done] == [0, 0], done
    assert "".join(rank.stdout for rank in done).count("5 samples; 3 problems") == 1
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert two["config"]["processes"] == 2
    assert two["samples"] == one["samples"]
    lines = [len(file.read_text().splitlines()) for file in sorted((tmp_path / "two").glob("answers*.jsonl"))]
    assert sorted(lines) == [2, 3]
