"""Asking a task: batches, order, resuming, sharing between processes, problems."""

import json
import os
from pathlib import Path

import pytest
from chat_answers import answer_chats
from PIL import Image

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation import runner
from xgenmm_hf.evaluation.prompting import AskSettings
from xgenmm_hf.evaluation.runner import Share, run_task
from xgenmm_hf.evaluation.samples import Sample, SampleProblem, Task
from xgenmm_hf.inference.loading import load


IMAGES = sorted((Path(TINY_MODEL).parent / "images").glob("*.png"))
QUESTIONS = ("What color is the star?", "How many shapes are there?", "What word is written in the picture?")
SHORT = AskSettings(max_new_tokens=12)


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL, dtype="float32", device="cpu")


def make_samples(count: int = 7) -> list[Sample]:
    """Returns samples with no, one and two images of different shapes, and texts of different lengths."""
    samples = []
    for number in range(count):
        images = [IMAGES[(number + shift) % len(IMAGES)] for shift in range((1, 2, 0, 1)[number % 4])]
        refs = tuple({"bytes": None, "path": str(path)} for path in images)
        samples.append(Sample(f"q{number}", QUESTIONS[number % 3], refs, ("orange",)))
    return samples


def make_task(samples: list[Sample], style: str = "chat") -> Task:
    return Task("shapes", "own", samples, [], "exact", style)


def answers_of(run: runner.Run) -> dict[str, str]:
    return {one.sample.id: one.answer for one in run.answered}


@pytest.fixture(scope="module")
def one_by_one(loaded, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("single")
    settings = AskSettings(batch_size=1, max_new_tokens=12)
    return answers_of(run_task(loaded, make_task(make_samples()), folder, settings))


@pytest.mark.parametrize("batch_size", [3, 7])
def test_any_batch_size_gives_the_same_answers(loaded, one_by_one, tmp_path, batch_size):
    run = run_task(loaded, make_task(make_samples()), tmp_path, AskSettings(batch_size=batch_size, max_new_tokens=12))
    assert answers_of(run) == one_by_one
    assert list(answers_of(run)) == [sample.id for sample in make_samples()]
    assert len(set(one_by_one.values())) > 2


def test_kept_images_change_no_answer_and_are_read_once(loaded, one_by_one, tmp_path, monkeypatch):
    read = []
    encode = loaded.model.get_image_features
    monkeypatch.setattr(
        loaded.model,
        "get_image_features",
        lambda **inputs: read.append(len(inputs["image_sizes"])) or encode(**inputs),
    )
    settings = AskSettings(batch_size=2, max_new_tokens=12, kept_mib=64)
    assert answers_of(run_task(loaded, make_task(make_samples()), tmp_path, settings)) == one_by_one
    shown = [ref["path"] for sample in make_samples() for ref in sample.images]
    assert sum(read) == len(set(shown)) < len(shown)


def test_the_chat_form_is_the_one_of_a_chat(loaded, one_by_one):
    samples = make_samples(2)
    prompts = [(one.text, [Image.open(ref["path"]).convert("RGB") for ref in one.images]) for one in samples]
    assert answer_chats(loaded, prompts, 12) == [one_by_one[one.id] for one in samples]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_few_shot_answers_do_not_depend_on_the_batch(loaded, tmp_path, batch_size):
    task = make_task(make_samples(), "vqa")
    run = run_task(loaded, task, tmp_path / "a", AskSettings(batch_size=batch_size, max_new_tokens=8, shots=2, seed=1))
    again = run_task(
        loaded, task, tmp_path / "b", AskSettings(batch_size=3, max_new_tokens=8, shots=2, seed=1, limit=4)
    )
    assert [one.shots for one in run.answered][:4] == [one.shots for one in again.answered]
    assert dict(list(answers_of(run).items())[:4]) == answers_of(again)
    assert all(one.prompt.count("<|endofchunk|>") == 2 for one in run.answered)


def test_the_longest_prompts_come_first(loaded, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        runner, "answer_texts", lambda _, texts, *rest, **options: seen.extend(texts) or ["a"] * len(texts)
    )
    done = []
    run = run_task(
        loaded, make_task(make_samples()), tmp_path, AskSettings(batch_size=2), progress=lambda *n: done.append(n)
    )
    images = [text.count("<image>") for text in seen]
    assert images == sorted(images, reverse=True)
    assert done == [(2, 7), (4, 7), (6, 7), (7, 7)]
    assert len(run.answered) == 7


def test_a_killed_run_goes_on_where_it_stopped(loaded, one_by_one, tmp_path, monkeypatch):
    task = make_task(make_samples())
    whole = run_task(loaded, task, tmp_path, AskSettings(batch_size=2, max_new_tokens=12))
    assert whole.resumed == 0
    file = tmp_path / "answers.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:20])
    asked = count_asked(monkeypatch)
    again = run_task(loaded, task, tmp_path, AskSettings(batch_size=3, max_new_tokens=12))
    assert (again.resumed, len(asked)) == (3, 4)
    assert answers_of(again) == one_by_one
    assert len({json.loads(line)["id"] for line in file.read_text().splitlines()}) == 7


def count_asked(monkeypatch) -> list[str]:
    """Records every prompt that reaches the model from here on."""
    asked: list[str] = []
    real = runner.answer_texts

    def record(loaded, texts, *rest, **options):
        asked.extend(texts)
        return real(loaded, texts, *rest, **options)

    monkeypatch.setattr(runner, "answer_texts", record)
    return asked


def test_a_larger_limit_keeps_what_is_there_and_other_settings_do_not(loaded, tmp_path, monkeypatch):
    task = make_task(make_samples())
    run_task(loaded, task, tmp_path, AskSettings(limit=2, max_new_tokens=4))
    asked = count_asked(monkeypatch)
    assert run_task(loaded, task, tmp_path, AskSettings(limit=3, max_new_tokens=4)).resumed == 2
    assert len(asked) == 1
    assert run_task(loaded, task, tmp_path, AskSettings(limit=3, max_new_tokens=5)).resumed == 0
    assert run_task(loaded, task, tmp_path, AskSettings(limit=3, max_new_tokens=4), checkpoint="other").resumed == 0
    assert run_task(loaded, task, tmp_path, AskSettings(limit=3, max_new_tokens=4)).resumed == 3


def test_answers_of_another_processor_or_other_ends_are_not_taken_over(loaded, tmp_path, monkeypatch):
    task, settings = make_task(make_samples(2)), AskSettings(max_new_tokens=4)

    def resumed() -> int:
        return run_task(loaded, task, tmp_path, settings).resumed

    assert (resumed(), resumed()) == (0, 2)
    with monkeypatch.context() as patch:
        patch.setattr(loaded.processor.image_processor, "image_mean", [0.4, 0.4, 0.4])
        assert resumed() == 0
    with monkeypatch.context() as patch:
        patch.setattr(loaded.model.generation_config, "eos_token_id", [0])
        assert resumed() == 0
    with monkeypatch.context() as patch:
        patch.setattr(loaded.processor, "chat_template", loaded.processor.chat_template + " ")
        assert resumed() == 0
    assert resumed() == 2


def test_answers_about_an_image_that_was_drawn_anew_are_not_taken_over(loaded, tmp_path):
    file = tmp_path / "one.png"
    task = make_task([Sample("one", "What?", ({"bytes": None, "path": str(file)},), ("orange",))])
    Image.new("RGB", (90, 70), "red").save(file)
    written = file.stat()
    assert run_task(loaded, task, tmp_path / "out", SHORT).resumed == 0
    assert run_task(loaded, task, tmp_path / "out", SHORT).resumed == 1
    Image.new("RGB", (90, 70), "blue").save(file)
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns + 1_000_000))
    assert run_task(loaded, task, tmp_path / "out", SHORT).resumed == 0


def test_a_damaged_line_is_named(loaded, tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": \n{"id": "a", "key": "b", "answer": ""}\n')
    with pytest.raises(ValueError, match=r"answers.jsonl, line 1 is damaged"):
        run_task(loaded, make_task(make_samples(1)), tmp_path, SHORT)


def test_images_that_cannot_be_read_are_problems(loaded, tmp_path):
    Image.new("RGB", (90, 70)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    refs = {name: ({"bytes": None, "path": str(tmp_path / name)},) for name in ("missing.png", "cut.png")}
    samples = [*make_samples(2), *(Sample(name, "What?", images) for name, images in refs.items())]
    task = Task("shapes", "own", samples, [SampleProblem("f.json", "line 3", "no id")], "exact", "chat")
    run = run_task(loaded, task, tmp_path / "out", SHORT)
    assert list(answers_of(run)) == ["q0", "q1"]
    assert [problem.where for problem in run.problems] == ["line 3", "sample missing.png", "sample cut.png"]
    assert "missing.png" in run.problems[1].reason
    assert "damaged or cut short" in run.problems[2].reason
    # The image was repaired: only its sample is asked.
    Image.new("RGB", (90, 70)).save(tmp_path / "cut.png")
    repaired = run_task(loaded, task, tmp_path / "out", SHORT)
    assert repaired.resumed == 2
    assert [problem.where for problem in repaired.problems] == ["line 3", "sample missing.png"]


def test_a_prompt_over_the_context_is_a_problem(loaded, tmp_path):
    samples = [*make_samples(1), Sample("long", "word " * 2000)]
    run = run_task(loaded, make_task(samples), tmp_path, SHORT)
    assert list(answers_of(run)) == ["q0"]
    assert "the context holds 2048" in run.problems[0].reason


def test_an_empty_task_is_refused(loaded, tmp_path):
    with pytest.raises(ValueError, match="no sample to ask"):
        run_task(loaded, make_task([]), tmp_path, SHORT)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shots": 2, "form": "chat"}, "belong to the base form"),
        ({"protocol": "openflamingo", "form": "chat"}, "belong to the base form"),
        ({"protocol": "poem"}, "protocol is 'poem'"),
        ({"form": "base", "suffix": "x"}, "no suffix"),
        ({"form": "poem"}, "form is 'poem'"),
        ({"batch_size": 0}, "batch_size is 0, shots is 0"),
        ({"shots": -1}, "shots is -1"),
    ],
)
def test_settings_that_contradict_each_other(wrong, message):
    with pytest.raises(ValueError, match=message):
        AskSettings(**wrong)


def test_two_shares_together_answer_everything(loaded, one_by_one, tmp_path):
    task = make_task(make_samples())
    second = run_task(loaded, task, tmp_path, SHORT, share=Share(1, 2))
    assert len(second.answered) == 3
    first = run_task(loaded, task, tmp_path, SHORT, share=Share(0, 1))
    assert first.resumed == 3
    assert answers_of(first) == one_by_one
    assert {file.name for file in tmp_path.iterdir()} == {"answers.jsonl", "answers-1.jsonl"}
