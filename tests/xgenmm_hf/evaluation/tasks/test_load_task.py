import pytest

from xgenmm_hf.evaluation.metrics import METRICS, score
from xgenmm_hf.evaluation.tasks import KINDS, load_task


def test_every_kind_has_a_metric():
    assert all(kind.metric in METRICS for kind in KINDS.values())


def test_wrong_calls_say_what_is_wrong(write_json):
    path = write_json("a.json", [])
    with pytest.raises(ValueError, match="no kind of task 'vqa'; it has vqav2"):
        load_task("vqa", path)
    with pytest.raises(ValueError, match="MMBench .* --harness vlmevalkit --data MMBench_DEV_EN --model MODEL"):
        load_task("mmbench", path)
    with pytest.raises(ValueError, match="POPE is measured by: .* --data POPE"):
        load_task("pope", path)
    with pytest.raises(ValueError, match="xgenmm eval --harness vlmevalkit --data NAME"):
        load_task("docvqa", path)
    with pytest.raises(ValueError, match="no metric 'bleu'"):
        load_task("own", path, metric="bleu")
    with pytest.raises(ValueError, match="have no splits"):
        load_task("vlguard", path, split="test")
    with pytest.raises(ValueError, match="There is no file"):
        load_task("own", [])
    with pytest.raises(ValueError, match="no data file at .*none.json"):
        load_task("own", path.with_name("none.json"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{broken", "not JSON"),
        ("a.json", b'"text"', "holds no list of records"),
        ("a.json", b"\xff\xfe", "holds no list of records"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
        ("a.txt", b"x", "has the suffix '.txt'"),
        ("MMStar.tsv", b"index\timage", "--harness vlmevalkit --data MMStar"),
    ],
)
def test_damaged_files_are_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_task("own", folder / name)


def test_name_and_metric_can_be_chosen(write_json):
    path = write_json("a.json", [{"id": 1, "question": "?", "answer": "x"}])
    task = load_task("own", path, name="mine", metric="contains")
    assert (task.name, task.kind, task.metric, task.prompt_style) == ("mine", "own", "contains", "vqa")


def test_a_pattern_names_files(write_lines):
    for name in ("b.jsonl", "a.jsonl"):
        path = write_lines(name, [{"id": name, "question": "?", "answer": "x"}])
    assert [sample.id for sample in load_task("own", path.with_name("*.jsonl")).samples] == ["a.jsonl", "b.jsonl"]


def test_problems_leave_the_score_of_the_rest_alone(write_lines, image):
    good = [{"id": n, "image": image(f"{n}.png"), "question": "?", "answer": "x"} for n in range(3)]
    bad = [
        "{not json",
        {"id": 0, "image": "0.png", "question": "again?", "answer": "y"},
        {"id": 7, "image": "missing.png", "question": "?", "answer": "x"},
        {"id": 8, "image": "0.png", "question": "", "answer": "x"},
        {"id": 9, "image": "0.png", "question": "?"},
        ["no", "row"],
    ]
    clean, mixed = (
        load_task("own", write_lines("a.jsonl", good)),
        load_task("own", write_lines("b.jsonl", good + bad)),
    )
    assert mixed.samples == clean.samples
    assert score("exact", mixed.samples, ["x"] * 3) == score("exact", clean.samples, ["x"] * 3)
    assert [(problem.source, problem.where) for problem in mixed.problems] == [
        ("b.jsonl", f"line {number}") for number in range(4, 10)
    ]
    reasons = [problem.reason for problem in mixed.problems]
    for reason, part in zip(
        reasons,
        ["not JSON", "id 0 was there before (b.jsonl, line 1)", "missing.png", "question is empty",
         "answers is missing", "the record is a list"],
        strict=True,
    ):  # fmt: skip
        assert part in reason


def test_images_are_looked_at_but_not_decoded(write_lines, folder, image, monkeypatch):
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    rows = [
        {"id": name, "image": name, "question": "?", "answer": "x"}
        for name in (image("good.png"), "text.png", "empty.png", "../good.png", "https://x.org/a.png")
    ]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    task = load_task("own", write_lines("a.jsonl", rows))
    assert [sample.id for sample in task.samples] == ["good.png"]
    assert task.samples[0].images == ({"bytes": None, "path": str(folder / "good.png")},)
    reasons = [problem.reason for problem in task.problems]
    assert len(reasons) == 4
    assert "leaves its root" in reasons[2]
    assert "address" in reasons[3]


def test_images_lie_in_another_folder(write_lines, folder, image):
    image("elsewhere/a.png")
    path = write_lines("a.jsonl", [{"id": 1, "image": "a.png", "question": "?", "answer": "x"}])
    assert len(load_task("own", path, images=folder / "elsewhere").samples) == 1
    assert "no image at" in load_task("own", path).problems[0].reason
