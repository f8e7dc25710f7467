"""The lmms-eval plugin: what it answers to lmms-eval's requests is what our own runner answers.

Where lmms-eval is installed its own code asks local tasks and scores them, in this process and as a command. It brings
many packages along, so it is no part of the development environment; `docs/evaluation.md` says how to install it.
Without it the plugin is tested on stand-ins for the three classes that it uses.
"""

import importlib
import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

import datasets
import pytest
from embedded_model.measure.held_out import held_out_questions
from embedded_model.world.render import render

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.harness import manifest
from xgenmm_hf.evaluation.prompting import AskSettings
from xgenmm_hf.evaluation.runner import run_task
from xgenmm_hf.evaluation.samples import Sample, Task
from xgenmm_hf.inference.loading import load


INSTALLED = find_spec("lmms_eval") is not None
REGISTERED = any(point.name == "xgenmm" for point in entry_points(group="lmms_eval.models"))
needs_lmms_eval = pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed")
COUNT = 12
TOKENS = 16
# The command, after what conftest.py does for this process.
LAUNCH = "import runpy, torchvision_names; runpy.run_module('lmms_eval', run_name='__main__', alter_sys=True)"
GENERATION = {"max_new_tokens": TOKENS, "temperature": 0, "do_sample": False}
HELPERS = """
def images(doc):
    return [doc["image"].convert("RGB")]

def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""
GENERATING = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.images
doc_to_text: !function utils.question
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
CHOOSING = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_visual: !function utils.images
doc_to_text: !function utils.question
doc_to_target: label
doc_to_choice: ["yes", "no"]
target_delimiter: " "
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@dataclass
class Request:
    """What the plugin reads of lmms-eval's `Instance`."""

    args: tuple


@dataclass
class Result:
    """A stand-in for lmms-eval's `GenerationResult`."""

    text: Any


class Base:
    """A stand-in for lmms-eval's base class of models."""

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *_: None)

    rank = property(lambda self: self._rank)
    world_size = property(lambda self: self._world_size)


@pytest.fixture(scope="module")
def adapter():
    """The plugin's module, on lmms-eval or on the stand-ins."""
    before = set(sys.modules)
    if INSTALLED:
        from lmms_eval import models

        # also where this checkout was installed before it had the entry point
        models.MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
        yield importlib.import_module("xgenmm_hf.evaluation.harness.lmms_eval")
        return
    for part in ("", ".api", ".api.instance", ".api.model", ".models", ".models.registry_v2"):
        sys.modules[f"lmms_eval{part}"] = types.ModuleType(f"lmms_eval{part}")
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = types.SimpleNamespace
    sys.modules["lmms_eval.api.instance"].Instance = Request
    sys.modules["lmms_eval.api.instance"].GenerationResult = Result
    sys.modules["lmms_eval.api.model"].lmms = Base
    yield importlib.import_module("xgenmm_hf.evaluation.harness.lmms_eval")
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "lmms_eval" or name.endswith("harness.lmms_eval"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def rows():
    """Images with yes/no questions."""
    yes_no = [pair for pair in held_out_questions(60) if pair[1].answer in ("yes", "no")][:COUNT]
    return [
        {
            "image": render(scene, 128),
            "question": question.text,
            "answer": question.answer,
            "label": ["yes", "no"].index(question.answer),
        }
        for scene, question in yes_no
    ]


@pytest.fixture(scope="module")
def ours(rows, tmp_path_factory):
    """What our own runner answers."""
    samples = [
        Sample(f"{number:02}", row["question"], (row["image"],), (row["answer"],)) for number, row in enumerate(rows)
    ]
    task = Task("drawn", "own", samples, [], "exact", "vqa")
    settings = AskSettings(batch_size=5, max_new_tokens=TOKENS, suffix="")
    run = run_task(load(TINY_MODEL), task, tmp_path_factory.mktemp("ours"), settings)
    assert [one.sample.id for one in run.answered] == [sample.id for sample in samples]
    return [one.answer for one in run.answered]


def share_right(answers, rows):
    return sum(answer == row["answer"] for answer, row in zip(answers, rows, strict=True)) / len(rows)


def messages_of(row):
    content = [{"type": "image", "url": row["image"]}, {"type": "text", "text": row["question"]}]
    return [{"role": "user", "content": content}]


def make_model(adapter, form, rows, batch_size):
    model = getattr(adapter, form)(TINY_MODEL, batch_size=batch_size, device="cpu")
    model.task_dict = {"drawn": {"test": rows}}
    return model


@pytest.mark.parametrize(("form", "batch_size"), [("XGenMMChat", 1), ("XGenMMChat", 5), ("XGenMMSimple", 5)])
def test_requests_are_answered_as_by_our_runner(adapter, rows, ours, form, batch_size):
    model = make_model(adapter, form, rows, batch_size)
    requests = []
    for number, row in enumerate(rows):
        place = (number, "drawn", "test")
        if form == "XGenMMChat":
            requests.append(Request((row["question"], messages_of, GENERATION, *place)))
        else:
            requests.append(Request((row["question"], GENERATION, lambda row: [row["image"]], *place)))
    assert model.generate_until(requests) == ours


def test_given_answers_are_rated(adapter, rows, ours):
    """The likelier of the two answers is the one that greedy decoding gives."""
    model = make_model(adapter, "XGenMMSimple", rows, 4)
    requests = [
        Request((row["question"], answer, lambda row: [row["image"]], number, "drawn", "test"))
        for number, row in enumerate(rows)
        for answer in ("yes", "no")
    ]
    ratings = [rating.text for rating in model.loglikelihood(requests)]
    assert set(ours) <= {"yes", "no"}
    for answer, yes, no in zip(ours, ratings[::2], ratings[1::2], strict=True):
        assert (yes[0] < no[0]) == (answer == "yes")
        assert (yes[1], no[1]) == (answer == "yes", answer == "no")


@pytest.fixture(scope="module")
def model(adapter):
    return adapter.XGenMMChat(TINY_MODEL, batch_size="2", device="cpu", max_new_tokens=7)


def test_generation_options(model):
    greedy = model.decoding(
        {"until": ["\n\n", "."], "temperature": 0.9, "do_sample": False, "image_aspect_ratio": "pad"}
    )
    assert (greedy.until, greedy.options, greedy.max_new_tokens) == ((".",), (), 7)
    drawn = model.decoding({"until": "END", "temperature": 0.9, "max_gen_toks": 3, "num_beams": 2, "top_k": 4})
    assert (drawn.until, drawn.max_new_tokens) == (("END",), 3)
    assert dict(drawn.options) == {"do_sample": True, "num_beams": 2, "temperature": 0.9, "top_k": 4}
    with pytest.raises(ValueError, match="'best_of'"):
        model.decoding({"best_of": 2})


def test_both_forms_ask_muirbenchs_questions_alike(adapter, rows):
    """The task's text marks its images; lmms-eval's chat messages put them before it."""
    document = {"image_list": [rows[0]["image"], rows[1]["image"]]}
    text = "Is <image> like <image>?\nA. yes\nB. no"
    images = [{"type": "image", "url": image} for image in document["image_list"]]
    messages = [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
    asked = []
    for form in ("XGenMMChat", "XGenMMSimple"):
        model = make_model(adapter, form, [document], 1)
        if form == "XGenMMChat":
            request = Request((text, lambda _: messages, GENERATION, 0, "drawn", "test"))
        else:
            request = Request((text, GENERATION, lambda doc: doc["image_list"], 0, "drawn", "test"))
        seen = []
        answer = model.answerer.answer
        model.answerer.answer = lambda batch, *rest, seen=seen, answer=answer: (
            seen.extend(batch) or answer(batch, *rest)
        )
        asked.append((model.generate_until([request]), [one.text for one in seen]))
    assert asked[0] == asked[1]
    (prompt,) = asked[0][1]
    assert "Is <image>\n like <image>\n?\nA. yes" in prompt


def test_the_manifest_names_both_forms(adapter):
    found = manifest()
    for path, expected in (
        (found.chat_class_path, adapter.XGenMMChat),
        (found.simple_class_path, adapter.XGenMMSimple),
    ):
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is expected
    assert found.model_id == "xgenmm"


def test_refusals(adapter, model):
    with pytest.raises(ValueError, match="--batch_size 8"):
        adapter.XGenMMChat(TINY_MODEL, batch_size="auto")
    with pytest.raises(NotImplementedError, match="--force_simple"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="tasks of one round"):
        model.generate_until_multi_round([])


@pytest.fixture(scope="module")
def task_folder(rows, tmp_path_factory):
    """A folder with lmms-eval's tasks and their images."""
    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "questions.parquet"
    features = datasets.Features(
        image=datasets.Image(),
        question=datasets.Value("string"),
        answer=datasets.Value("string"),
        label=datasets.Value("int64"),
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(file)
    (folder / "utils.py").write_text(HELPERS)
    for name, text in (("drawn_open", GENERATING), ("drawn_choice", CHOOSING)):
        (folder / f"{name}.yaml").write_text(text.format(name=name, file=file))
    return folder


def evaluate(folder, task, batch_size, **options):
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    return evaluator.simple_evaluate(
        model="xgenmm",
        model_args=f"pretrained={TINY_MODEL}",
        tasks=[task],
        batch_size=batch_size,
        device="cpu",
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        process_docs_parallel=1,
        **options,
    )


def answers_of(samples):
    """Returns answers in the documents' order; a log file has a text where there is one answer."""
    answers = [sample["filtered_resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    return [answer if isinstance(answer, str) else answer[0] for answer in answers]


@needs_lmms_eval
@pytest.mark.parametrize(("batch_size", "force_simple"), [(1, False), (5, False), (5, True)])
def test_lmms_evals_answers_and_score_are_ours(adapter, task_folder, rows, ours, batch_size, force_simple):
    results = evaluate(task_folder, "drawn_open", batch_size, force_simple=force_simple)
    assert answers_of(results["samples"]["drawn_open"]) == ours
    assert results["results"]["drawn_open"]["exact_match,none"] == pytest.approx(share_right(ours, rows))
    assert results["config"]["model_backend"].endswith("XGenMMSimple (simple)" if force_simple else "(chat)")


@needs_lmms_eval
def test_lmms_evals_multiple_choice_agrees_with_the_answers(adapter, task_folder, rows, ours):
    results = evaluate(task_folder, "drawn_choice", 4, force_simple=True)
    assert results["results"]["drawn_choice"]["acc,none"] == pytest.approx(share_right(ours, rows))


@needs_lmms_eval
def test_registry_finds_both_forms(adapter):
    from lmms_eval import models

    assert models.get_model("xgenmm") is adapter.XGenMMChat
    assert models.get_model("blip3", force_simple=True) is adapter.XGenMMSimple


@needs_lmms_eval
@pytest.mark.skipif(
    not REGISTERED, reason="this checkout was installed before it had the entry point: install it anew"
)
def test_the_command(task_folder, ours, rows, tmp_path):
    """`lmms-eval --model xgenmm` as a user calls it; the plugin is found by its entry point."""
    given = f"--model xgenmm --model_args pretrained={TINY_MODEL} --tasks drawn_open --include_path {task_folder}"
    options = f"--batch_size 4 --device cpu --log_samples --output_path {tmp_path}"
    command = [sys.executable, "-c", LAUNCH, *given.split(), *options.split()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = tmp_path.rglob("*_samples_drawn_open.jsonl")
    assert answers_of(map(json.loads, file.read_text().splitlines())) == ours
    (file,) = tmp_path.rglob("*_results.json")
    scores = json.loads(file.read_text())["results"]["drawn_open"]
    assert scores["exact_match,none"] == pytest.approx(share_right(ours, rows))
