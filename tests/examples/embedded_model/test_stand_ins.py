import ast
import base64
import csv
import io
from collections import Counter

import pytest
import yaml
from datasets import Dataset
from embedded_model.measure.stand_ins import FILES, TASKS, write_stand_ins, write_tasks
from PIL import Image


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    csv.field_size_limit(1 << 30)
    files = write_stand_ins(tmp_path_factory.mktemp("stand-ins"), 56)
    assert [file.stem for file in files] == list(FILES)
    return {file.stem: list(csv.DictReader(file.open(encoding="utf-8"), delimiter="\t")) for file in files}


def test_every_row_has_its_image(rows):
    for table in rows.values():
        assert [row["index"] for row in table] == [str(index) for index in range(56)]
        assert Image.open(io.BytesIO(base64.b64decode(table[0]["image"]))).width > 100


def test_yes_and_no_are_balanced_and_mme_asks_twice_of_each_image(rows):
    assert 14 < Counter(row["answer"] for row in rows["POPE"])["Yes"] < 42
    by_image = Counter((row["image_path"], row["answer"]) for row in rows["MME"])
    assert set(by_image.values()) == {1}
    assert len({row["category"] for row in rows["MME"]}) == 14
    assert all(row["question"].endswith(" Please answer yes or no.") for row in (*rows["POPE"], *rows["MME"]))


def test_letters_name_one_of_the_options(rows):
    for row in rows["MMBench_DEV_EN"]:
        options = [row[letter] for letter in "ABCD" if row[letter]]
        assert row[row["answer"]]
        assert 2 <= len(options) == len(set(options))


def test_short_answers_are_lists_of_ten(rows):
    assert all(len(ast.literal_eval(row["answer"])) == 10 for row in rows["TextVQA_VAL"])


def test_lmms_evals_tasks_include_the_harness_own_and_read_the_same_rows(rows, tmp_path):
    names = write_tasks(tmp_path / "tasks", 56, tmp_path / "lmms_eval" / "tasks")
    assert names == [f"{task}_drawn" for task in TASKS]
    for task, (stand_in, *_) in TASKS.items():
        text = yaml.safe_load((tmp_path / "tasks" / f"{task}.yaml").read_text())
        assert text["include"].startswith("../lmms_eval/tasks/")
        (file,) = text["dataset_kwargs"]["data_files"].values()
        table = Dataset.from_parquet(file, cache_dir=tmp_path)
        assert table["question"] == [row["question"] for row in rows[stand_in]]
        assert table[0]["image"].width > 100
    assert len(Dataset.from_parquet(file, cache_dir=tmp_path)[0]["answers"]) == 10
