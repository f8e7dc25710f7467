"""Rows of one's own: ids, marks, options, and what is refused."""

import pytest

from xgenmm_hf.evaluation.metrics import score
from xgenmm_hf.evaluation.tasks import load_task


def test_ids_are_numbered_where_there_are_none(write_lines, image):
    rows = [{"image": image("1.png"), "question": "What?", "answer": "x"}] * 2 + [{"question": "Why?", "answer": 5}]
    task = load_task("own", write_lines("a.jsonl", rows))
    assert [sample.id for sample in task.samples] == ["1", "2", "3"]
    assert [len(sample.images) for sample in task.samples] == [1, 1, 0]
    assert task.samples[2].references == ("5",)
    assert task.metric == "exact"


def test_marks_keep_their_places(write_lines, image):
    row = {"question": "Is <image> like <image>?", "images": [image("1.png"), image("2.png")], "answer": "no"}
    task = load_task("own", write_lines("a.jsonl", [row, {**row, "images": ["1.png"]}]))
    assert task.samples[0].marked
    assert task.samples[0].text == "Is <image> like <image>?"
    assert "marks 2 images" in task.problems[0].reason


def test_options_are_lettered_and_letters_without_options_refused(write_lines):
    row = {"question": "Which?", "options": ["cat", "dog"], "answer": "B"}
    rows = [row, {**row, "answer": "cat"}, {**row, "answer": "cow"}, {"question": "Which?", "answer": "B"}]
    task = load_task("own", write_lines("a.jsonl", rows))
    assert [sample.references for sample in task.samples] == [("B",), ("A",)]
    assert task.samples[0].text == "Which?\nA. cat\nB. dog"
    assert task.metric == "choice"
    assert "none of the options" in task.problems[0].reason
    assert "is a letter, but the row has no options" in task.problems[1].reason
    assert score(task.metric, task.samples, ["**B. dog**", "I would choose B"]).overall["accuracy"] == 0.5


@pytest.mark.parametrize("field", ["image_1", "A", "hint", "choices", "label", "correct_choice", "image_list"])
def test_benchmarks_files_are_refused_with_the_harness(write_lines, field):
    rows = [{"question": "?", "answer": "x"}, {"question": "?", "answer": "x", field: "y"}]
    with pytest.raises(ValueError, match=f"the field '{field}'.*xgenmm eval --harness vlmevalkit --data NAME"):
        load_task("own", write_lines("a.jsonl", rows))


def test_bytes_are_held_on_disk_and_a_limit_ends_the_reading(write_parquet, encoded):
    rows = [
        {"question": "?", "answer": "x", "image": {"bytes": encoded((number, 0, 0)), "path": f"{number}.png"}}
        for number in range(200)
    ]
    file = write_parquet("a.parquet", rows)
    whole, part = load_task("own", file), load_task("own", file, limit=3)
    assert (len(whole.samples), len(part.samples)) == (200, 3)
    assert part.samples == whole.samples[:3] or [one.id for one in part.samples] == ["1", "2", "3"]
    refs = [sample.images[0] for sample in whole.samples]
    assert all(ref["bytes"] is None for ref in refs)
    with open(refs[7]["path"], "rb") as held:
        assert held.read() == rows[7]["image"]["bytes"]
