import pytest

from xgenmm_hf.evaluation.tasks import load_task


def test_coco_and_nocaps(write_json, image):
    images = [
        {"id": 1, "file_name": image("1.jpg"), "domain": "in-domain"},
        {"id": 2, "file_name": image("2.jpg"), "domain": "near-domain"},
        {"id": 3, "file_name": "3.jpg"},
        {"id": 2, "file_name": "2.jpg"},
        {"id": 4, "file_name": image("4.jpg")},
        {"id": [5], "file_name": image("5.jpg")},
    ]
    captions = [
        {"image_id": 2, "id": 10, "caption": "A dog."},
        {"image_id": 1, "id": 11, "caption": "A cat."},
        {"image_id": 2, "id": 12, "caption": "The dog."},
        {"image_id": 3, "id": 13, "caption": "A bird."},
        {"image_id": 9, "id": 14, "caption": "Nothing."},
        {"image_id": 1, "id": 11, "caption": "A cat again."},
        {"image_id": 1, "id": 15, "caption": None},
        "text",
        {"image_id": [5], "id": [16], "caption": "A list."},
    ]
    task = load_task("coco_captions", write_json("captions.json", {"images": images, "annotations": captions}))
    assert (task.metric, task.prompt_style) == ("cider", "caption")
    assert {sample.id: sample.references for sample in task.samples} == {"1": ("A cat.",), "2": ("A dog.", "The dog.")}
    assert [sample.category for sample in task.samples] == ["in-domain", "near-domain"]
    assert task.samples[0].text == ""
    found = [(problem.where, problem.reason) for problem in task.problems]
    assert [where for where, _ in found] == [
        *(f"caption {number}" for number in range(5, 10)),
        *(f"image {number}" for number in range(3, 7)),
    ]
    assert "not listed" in found[0][1]
    assert "id 11 was there before" in found[1][1]
    assert "image [5] that is not listed" in found[4][1]
    assert "captions is missing" in found[7][1]
    assert "image_id is a list" in found[8][1]


def test_karpathy(write_json, image):
    image("val2014/COCO_val2014_000000000007.jpg")
    rows = [
        {
            "cocoid": 7,
            "filepath": "val2014",
            "filename": "COCO_val2014_000000000007.jpg",
            "split": "test",
            "sentences": [{"raw": "A dog.", "tokens": ["a", "dog"]}, {"raw": "One dog."}],
        },
        {"cocoid": 8, "filepath": "val2014", "filename": "x.jpg", "split": "train", "sentences": []},
    ]
    path = write_json("dataset_coco.json", {"images": rows, "dataset": "coco"})
    task = load_task("coco_captions", path)
    assert [(sample.id, sample.references) for sample in task.samples] == [("7", ("A dog.", "One dog."))]
    assert not task.problems
    assert load_task("coco_captions", path, split="train").problems
    with pytest.raises(ValueError, match="no split 'val'; it has test, train"):
        load_task("coco_captions", path, split="val")


def test_karpathy_s_rows_with_odd_splits_are_problems(write_json, image):
    row = {"cocoid": 7, "filename": image("7.jpg"), "split": "test", "sentences": [{"raw": "A dog."}]}
    path = write_json("dataset_coco.json", {"images": [row, {**row, "split": ["test"]}, {**row, "cocoid": {"id": 8}}]})
    task = load_task("coco_captions", path)
    assert [sample.id for sample in task.samples] == ["7"]
    assert [(problem.where, problem.reason) for problem in task.problems] == [
        ("image 2", "split is missing or no text"),
        ("image 3", "image_id is a dict; it must be a text"),
    ]


def test_textcaps_rows_are_one_per_image(write_json, image):
    image("abc.jpg")
    row = {"image_id": "abc", "image_path": "train/abc.jpg", "image_name": "abc", "reference_strs": ["One.", "Two."]}
    rows = [{**row, "caption_str": text, "caption_id": n} for n, text in enumerate(["One.", "Two."])]
    task = load_task("coco_captions", write_json("TextCaps_val.json", {"data": rows}))
    assert [sample.references for sample in task.samples] == [("One.", "Two.")]
    assert not task.problems


def test_rows_with_one_caption_each_are_put_together(write_lines, image):
    name = image("1.jpg")
    rows = [{"image_id": 1, "image": name, "caption": text} for text in ("A dog.", "A dog.", "One dog.")]
    task = load_task("coco_captions", write_lines("a.jsonl", [*rows, {"image_id": 2, "caption": 5.5}]))
    assert task.samples[0].references == ("A dog.", "A dog.", "One dog.")
    assert len(task.problems) == 1


def test_rows_of_parquet(write_parquet, encoded):
    row = {"id": 3, "image": {"bytes": encoded(), "path": None}, "answer": ["A dog.", "One dog."]}
    task = load_task("coco_captions", write_parquet("val.parquet", [row]))
    assert task.samples[0].references == ("A dog.", "One dog.")
