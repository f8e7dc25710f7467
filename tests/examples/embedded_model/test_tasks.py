"""The data of the embedded model's report: every file is one of its kind, and nothing in it was trained on."""

import json
from pathlib import Path

import pytest
from embedded_model.measure.tasks import IMAGE_SIDE, WRITERS, scenes, write_questions
from embedded_model.world.scene import HELD_OUT, TRAIN, split_of
from PIL import Image

from xgenmm_hf.evaluation.metrics import METRICS, score
from xgenmm_hf.evaluation.tasks import load_task


KIND_OF = {
    "questions": "vqav2",
    "examples": "vqav2",
    "captions": "coco_captions",
    "presence": "own",
    "guard": "vlguard",
    "pairs": "own",
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_are_of_their_kind(name, tmp_path):
    task = load_task(KIND_OF[name], WRITERS[name](tmp_path, 12))
    assert task.problems == []
    assert len(task.samples) >= 12
    assert METRICS[task.metric]
    with Image.open(task.samples[0].images[0]["path"]) as image:
        assert max(image.size) == IMAGE_SIDE
    if name != "guard":
        right = score(task.metric, task.samples, [sample.references[0] for sample in task.samples])
        assert next(iter(right.overall.values())) == 1 if name != "captions" else right.overall["cider"] > 5


def test_the_same_seed_writes_the_same_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for writer in WRITERS.values():
            writer(tmp_path / name, 12)
    names = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.*"))
    assert len(names) > 60
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_scenes_are_held_out():
    assert {split_of(scene) for scene, _ in scenes(7, 40)} == {HELD_OUT}


def test_examples_are_apart_from_questions(tmp_path):
    files = [write_questions(tmp_path, 4, split) for split in (HELD_OUT, TRAIN)]
    texts = [Path(questions).read_text() for questions, _ in files]
    assert texts[0] != texts[1]
    assert len({file.name for pair in files for file in pair}) == 4


def test_requests_of_the_guard_are_balanced(tmp_path):
    rows = json.loads(WRITERS["guard"](tmp_path, 12)[0].read_text())
    assert [row["safe"] for row in rows] == [False, True] * 6
    for row in rows:
        asked = {name for turn in row["instr-resp"] for name in turn if name.endswith("instruction")}
        assert asked == ({"safe_instruction", "unsafe_instruction"} if row["safe"] else {"instruction"})


def test_probes_ask_for_what_is_not_there(tmp_path):
    (file,) = WRITERS["presence"](tmp_path, 12)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["answer"] for row in rows] == (["yes"] * 3 + ["no"] * 3) * 2
    assert len({(row["image"], row["question"]) for row in rows}) == 12


def test_images_that_are_there_are_not_written_again(tmp_path):
    write_questions(tmp_path, 2)
    files = sorted((tmp_path / "images").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:40])
    write_questions(tmp_path, 2)
    assert files[0].stat().st_mtime_ns == before[0]
    assert files[1].read_bytes() == whole
