import ast
import base64
import csv
import io
from collections import Counter

import pytest
from embedded_model.measure.stand_ins import FILES, write_stand_ins
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
