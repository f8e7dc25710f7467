import pytest

from xgenmm_hf.evaluation.tasks import load_task


TEN = [{"answer": "yes", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]


@pytest.fixture
def vqav2(write_json, image):
    image("COCO_val2014_000000000042.jpg")

    def write(questions=(), annotations=()):
        return [
            write_json(
                "v2_OpenEnded_mscoco_val2014_questions.json",
                {
                    "data_subtype": "val2014",
                    "questions": [{"image_id": 42, "question": "Is it red?", "question_id": 42000}, *questions],
                },
            ),
            write_json(
                "v2_mscoco_val2014_annotations.json",
                {
                    "annotations": [
                        {"question_id": 42000, "image_id": 42, "answer_type": "yes/no", "answers": TEN},
                        *annotations,
                    ]
                },
            ),
        ]

    return write


@pytest.mark.parametrize("order", [1, -1])
def test_vqav2(vqav2, folder, order):
    task = load_task("vqav2", vqav2()[::order])
    assert (task.metric, task.prompt_style, task.problems) == ("vqa_accuracy", "vqa", [])
    (sample,) = task.samples
    assert (sample.id, sample.text, sample.category) == ("42000", "Is it red?", "yes/no")
    assert sample.references == ("yes",) * 10
    assert sample.images[0]["path"] == str(folder / "COCO_val2014_000000000042.jpg")


def test_vqav2_reports_every_row_without_a_partner(vqav2):
    files = vqav2(
        questions=[
            {"image_id": 42, "question": "Not annotated?", "question_id": 1},
            {"image_id": 42, "question": "Is it red?", "question_id": 42000},
            {"image_id": 43, "question": "No image?", "question_id": 2},
            {"image_id": 42, "question": "Odd type?", "question_id": 3},
            {"image_id": 42, "question": "One answer?", "question_id": 4},
            {"image_id": 42, "question": "No answers?", "question_id": 5},
        ],
        annotations=[
            {"question_id": 42000, "answer_type": "other", "answers": TEN},
            {"question_id": 2, "answer_type": "other", "answers": TEN},
            {"question_id": 3, "answer_type": "essay", "answers": TEN},
            {"question_id": 4, "answer_type": "other", "answers": TEN[:1]},
            {"question_id": 5, "answer_type": "other", "answers": 7.5},
            {"question_id": 6, "answer_type": "other", "answers": TEN},
            {"answers": TEN},
        ],
    )
    task = load_task("vqav2", files)
    assert [sample.id for sample in task.samples] == ["42000"]
    assert task.samples[0].category == "yes/no"
    found = {problem.where: problem.reason for problem in task.problems}
    assert len(task.problems) == 9
    assert "annotated before" in found["row 2"] or "no annotation" in found["row 2"]
    assert "the id 42000 was there before" in found["question 42000"]
    assert "no image at" in found["question 2"]
    assert "answer type 'essay' is unknown" in found["question 3"]
    assert "one answer" in found["question 4"]
    assert "one answer" in found["question 5"]
    assert "question 6 that is not there" in found["row 7"]
    assert "no question_id" in found["row 8"]


def test_vqav2_needs_both_files(vqav2):
    questions, annotations = vqav2()
    with pytest.raises(ValueError, match="0 files with annotations"):
        load_task("vqav2", questions)
    second = annotations.with_name("second.json")
    second.write_bytes(annotations.read_bytes())
    with pytest.raises(ValueError, match="2 files with annotations"):
        load_task("vqav2", [questions, annotations, second])


def test_vqav2_refuses_a_file_that_it_would_not_use(vqav2, write_json):
    with pytest.raises(ValueError, match=r"more\.json would not be used"):
        load_task("vqav2", [*vqav2(), write_json("more.json", [{"id": 1, "question": "?"}])])


def test_vqav2_rows_of_parquet(write_parquet, encoded):
    row = {
        "question_id": 7,
        "question": "Is it red?",
        "image": {"bytes": encoded(), "path": "x.png"},
        "answer_type": "yes/no",
        "answers": TEN,
    }
    task = load_task("vqav2", write_parquet("val.parquet", [row, {**row, "question_id": 8, "answer_type": "?"}]))
    with open(task.samples[0].images[0]["path"], "rb") as file:
        assert file.read() == encoded()
    assert task.samples[0].references == ("yes",) * 10
    assert [problem.where for problem in task.problems] == ["row 2"]


def test_vizwiz_rows(write_json, image):
    answers = [{"answer": "unanswerable", "answer_confidence": "yes"} for _ in range(10)]
    row = {"question": "What is it?", "answers": answers, "answer_type": "unanswerable", "answerable": 0}
    rows = [{"image": image(f"VizWiz_val_0000000{number}.jpg"), **row} for number in (0, 1)]
    task = load_task("vqav2", write_json("val.json", [*rows, rows[0], row]))
    assert [sample.id for sample in task.samples] == ["VizWiz_val_00000000.jpg", "VizWiz_val_00000001.jpg"]
    assert task.samples[0].category == "unanswerable"
    assert task.samples[0].references == ("unanswerable",) * 10
    assert "was there before" in task.problems[0].reason
    assert "names no image" in task.problems[1].reason


def test_textvqa(write_json, image):
    image("train_images/abc.jpg")
    data = {"question_id": 34, "question": "What does it say?", "image_id": "abc", "answers": ["stop"] * 9 + ["STOP"]}
    path = write_json("TextVQA_val.json", {"data": [data, {**data, "question_id": 35, "answers": [1] * 10}]})
    task = load_task("textvqa", path, images=path.parent / "train_images")
    assert task.samples[0].references[9] == "STOP"
    assert task.samples[1].references == ("1",) * 10
    assert not task.problems
