"""The row schema."""

import datasets
import pytest

from xgenmm_hf.data.image_refs import image_ref
from xgenmm_hf.data.rows import (
    InvalidRow,
    end_of_chunk_part,
    features_of,
    image_part,
    make_row,
    message,
    row_kind,
    text_part,
    validate_row,
)


IMAGE = image_ref("a.png")
QUESTION, ANSWER = message("user", image_part(), "What?"), message("assistant", "A bus.")
ROWS = {
    "chat": make_row("1", "set", [IMAGE], messages=[message("system", "Be brief."), QUESTION, ANSWER]),
    "preference": make_row(
        "1", "set", [IMAGE], prompt=[QUESTION], chosen=[ANSWER], rejected=[message("assistant", "A dog.")]
    ),
    "pretraining": make_row("1", "set", [IMAGE], content=[image_part(), text_part("A bus."), end_of_chunk_part()]),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_of_each_kind(kind):
    row = ROWS[kind]
    assert validate_row(row) == row_kind(row) == kind
    stored = datasets.Dataset.from_list([row, row], features=features_of(kind))
    assert stored[1] == row
    assert validate_row(stored[0]) == kind


def test_images_in_memory_and_texts_alone_are_fine():
    from PIL import Image

    assert validate_row({**ROWS["chat"], "images": [Image.new("RGB", (2, 2))]}) == "chat"
    assert validate_row(make_row("1", "set", messages=[message("user", "Hi"), message("assistant", "")])) == "chat"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ""}, "id is ''"),
        ({"source": None}, "source is None"),
        ({"images": None}, "images is a NoneType"),
        ({"images": []}, "1 image part.* for 0 image"),
        ({"images": [IMAGE, IMAGE]}, "1 image part.* for 2 image"),
        ({"images": [image_ref()]}, "neither bytes nor a path"),
        ({"images": ["a.png"]}, "images.0. is a str"),
        ({"messages": None}, "no kind"),
        ({"content": [text_part("x")]}, "chat and pretraining"),
        ({"messages": []}, "empty"),
        ({"messages": [QUESTION]}, "must end with the assistant"),
        ({"messages": [ANSWER, QUESTION]}, "turn of the assistant where one of the user"),
        ({"messages": [QUESTION, ANSWER, ANSWER]}, r"messages\[2\]"),
        ({"messages": [QUESTION, message("system", "x"), ANSWER]}, "system turn"),
        ({"messages": [QUESTION, message("tool", "x")]}, "role 'tool'"),
        ({"messages": [QUESTION, {"role": "assistant", "content": "A bus."}]}, "has a str as content"),
        ({"messages": [message("user", ""), ANSWER]}, "neither text nor an image"),
        ({"messages": [message("user", "x"), message("assistant", image_part())]}, "only turns of the user"),
        ({"messages": [message("user", end_of_chunk_part()), ANSWER]}, "of type 'end_of_chunk'"),
        ({"messages": [message("user", {"type": "text", "text": None}), ANSWER]}, "holds a string"),
        ({"messages": [message("user", {"type": "image", "text": "a.png"}), ANSWER]}, "every other part None"),
    ],
)
def test_faults_of_a_chat(change, reason):
    with pytest.raises(InvalidRow, match=reason):
        validate_row({**ROWS["chat"], **change})


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("preference", {"prompt": [QUESTION, ANSWER]}, "must end with the user"),
        ("preference", {"chosen": [ANSWER, ANSWER]}, "chosen must be one message"),
        ("preference", {"rejected": None}, "rejected must be one message"),
        ("preference", {"rejected": [message("assistant", "")]}, "rejected has neither"),
        ("pretraining", {"content": [image_part()]}, "no text"),
        ("pretraining", {"content": "x"}, "has a str as content"),
    ],
)
def test_faults_of_the_others(kind, change, reason):
    with pytest.raises(InvalidRow, match=reason):
        validate_row({**ROWS[kind], **change})


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="no kind of rows"):
        features_of("image")
