import base64
import csv

import pytest

from xgenmm_hf.evaluation.metrics import score
from xgenmm_hf.evaluation.tasks import load_task
from xgenmm_hf.evaluation.tasks.tables import CHOOSE


def test_multi_image_rows_of_parquet(write_parquet, encoded):
    images = [{"bytes": encoded(color), "path": None} for color in ("red", "blue")]
    rows = [
        {
            "id": "mantis_1",
            "question_type": "multi-choice",
            "question": "<image> <image>\nWhich is red?",
            "images": images,
            "options": ["(A) first", "(B) second"],
            "answer": "A",
        },
        {"id": "mantis_2", "question_type": "short-answer", "question": "How many?", "images": images, "answer": "2"},
        {"id": "mantis_3", "question": "Which?", "images": images, "options": ["x", "y"], "answer": "C"},
        {"id": "mantis_4", "question": "Which?", "images": [], "options": ["x", "y"], "answer": "A"},
    ]
    task = load_task("multi_image", write_parquet("mantis.parquet", rows))
    assert (task.metric, task.prompt_style) == ("accuracy", "chat")
    first, second = task.samples
    assert first.text == f"Which is red?\nA. first\nB. second\n{CHOOSE}"
    assert first.options == {"choices": {"A": "first", "B": "second"}}
    assert first.references == ("A",)
    assert len(first.images) == 2
    assert second.text.startswith("How many?\n")
    assert [problem.where for problem in task.problems] == ["row 3", "row 4"]
    assert "none of the options A, B" in task.problems[0].reason
    found = score(task.metric, task.samples, ["(A)", "Two."])
    assert found.per_sample == [1, 1]


@pytest.mark.parametrize(
    ("fields", "letter"),
    [
        ({"choices": ["x", "y"], "answer": "(B)"}, "B"),
        ({"choices": ["x", "y"], "answer": 1}, "B"),
        ({"choices": ["x", "y"], "answer": "y"}, "B"),
        ({"options": "['x', 'y']", "answer": "B"}, "B"),
        ({"options": {"a": "x", "b": "y"}, "answer": "B"}, "B"),
        ({"options": {"B": "y", "C": None, "A": "x"}, "answer": "B"}, "B"),
        ({"A": "x", "B": "y", "answer": "B"}, "B"),
        ({"option0": "x", "option1": "y", "correct_choice": "B"}, "B"),
    ],
)
def test_forms_of_options(write_lines, image, fields, letter):
    row = {"id": 1, "question": "Which?", "image_1": image("1.png"), "image_2": image("2.png"), "image_3": None}
    (sample,) = load_task("multi_image", write_lines("a.jsonl", [{**row, **fields}])).samples
    assert sample.options == {"choices": {"A": "x", "B": "y"}}
    assert sample.references == (letter,)
    assert [image["path"][-5:] for image in sample.images] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"options": ["x", ""], "answer": "A"}, "an option is empty"),
        ({"options": 3, "answer": "A"}, "options is a int"),
        ({"A": "x", "C": "y", "answer": "A"}, "options A, C"),
        ({"options": {"A": "x", "C": "y"}, "answer": "C"}, "the options are named A, C; they must be A, B, C, ..."),
        ({"options": {"1": "x", "2": "y"}, "answer": "2"}, "the options are named 1, 2"),
        ({"options": {"A": "x", "a": "y"}, "answer": "A"}, "the options are named A, a"),
        ({"options": ["x", "y"], "answers": ["A", "B"]}, "2 right answers"),
        ({"answer": {"a": 1}}, "must hold texts"),
        ({"answer": True}, "must hold texts"),
        ({"question": None, "answer": "x"}, "question is missing"),
        ({"image": 3, "answer": "x"}, "image is a int"),
        ({"image": "", "answer": "x"}, "image is missing"),
        ({"id": None, "answer": "x"}, "question_id is missing"),
    ],
)
def test_malformed_rows_are_problems(write_lines, fields, reason):
    task = load_task("exact", write_lines("a.jsonl", [{"id": 1, "question": "?", **fields}]))
    assert not task.samples
    assert reason in task.problems[0].reason


def test_plain_rows(write_lines, image):
    rows = [
        {"id": "a", "prompt": "What is it?", "image": image("1.png"), "answers": ["cat", "a cat"], "category": "x"},
        {"id": "b", "prompt": "2 + 2?", "answer": 4},
        {"id": "c", "prompt": "Which list?", "answer": "[1, 2]"},
    ]
    separator = '{"id": "d", "prompt": "One\u2028line?", "answer": "x"}'
    task = load_task("exact", write_lines("a.jsonl", [*rows, separator]))
    assert (task.metric, task.prompt_style, task.problems) == ("exact_normalised", "vqa", [])
    assert [sample.references for sample in task.samples] == [("cat", "a cat"), ("4",), ("[1, 2]",), ("x",)]
    assert [len(sample.images) for sample in task.samples] == [1, 0, 0, 0]


@pytest.fixture
def write_tsv(folder):
    def write(name, header, *rows):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t").writerows([header, *rows])
        return folder / name

    return write


def test_vlmevalkit_s_tsv(write_tsv, encoded):
    text = base64.b64encode(encoded()).decode()
    path = write_tsv(
        "bench.tsv",
        ["index", "question", "hint", "A", "B", "C", "answer", "category", "image"],
        ["1", "Which?", "Look.", "x", "y", "", "B", "cat1", text],
        ["2", "Which\nnow?", "", "x", "y", "z", "C", "cat2", "1"],
        ["3", "Which?", "", "x", "y", "", "A", "cat1", "not base64!"],
        ["4", "Which?"],
        ["5", "Both?", "", "x", "y", "", "A", "cat1", f"['{text}', '{text}']"],
    )
    task = load_task("exact", path)
    assert (task.metric, task.prompt_style) == ("accuracy", "chat")
    assert [sample.id for sample in task.samples] == ["1", "2", "5"]
    assert task.samples[0].text == f"Hint: Look.\nQuestion: Which?\nA. x\nB. y\n{CHOOSE}"
    assert task.samples[1].images[0]["bytes"] == encoded()
    assert len(task.samples[2].images) == 2
    assert [problem.where for problem in task.problems] == ["row 4", "row 5"]
    assert "no base64" in task.problems[0].reason
    assert "2 fields where the header has 9" in task.problems[1].reason


def test_lists_that_a_table_spells_out(write_tsv, image):
    names = [image("1.png"), image("2.png")]
    path = write_tsv("vqa.tsv", ["index", "question", "image_path", "answers"], ["1", "?", str(names), "['a', 'b']"])
    (sample,) = load_task("exact", path).samples
    assert sample.references == ("a", "b")
    assert len(sample.images) == 2
