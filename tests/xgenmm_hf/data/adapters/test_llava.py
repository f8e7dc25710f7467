"""LLaVA records and their markers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xgenmm_hf.data.adapters import ADAPTERS
from xgenmm_hf.data.adapters.base import Context
from xgenmm_hf.data.fields import RejectedRecord
from xgenmm_hf.data.image_refs import Roots
from xgenmm_hf.data.rows import validate_row


CONTEXT = Context("set", Roots(default="/images"))


def convert(record):
    (row,) = ADAPTERS["llava"].convert(record, "1", CONTEXT)
    return row


def conversation(*values, speakers=("human", "gpt")):
    return [{"from": speakers[index % 2], "value": value} for index, value in enumerate(values)]


def rendered(message):
    """Writes a message as the chat template does."""
    return "".join("<image>\n" if part["type"] == "image" else part["text"] for part in message["content"])


@given(
    st.lists(
        st.tuples(st.lists(st.text(max_size=5), min_size=1, max_size=4), st.text(min_size=1)), min_size=1, max_size=3
    ),
    st.integers(0, 2),
)
def test_markers_become_parts_and_no_text_is_lost(turns, missing):
    questions = ["<image>\n".join(["Q", *pieces]) for pieces, _ in turns]
    markers = sum(question.count("<image>") for question in questions)
    answers = [answer.strip() + "<image>" for _, answer in turns]
    values = [value for pair in zip(questions, answers, strict=True) for value in pair]
    images = [f"{index}.jpg" for index in range(markers + missing)]
    row = convert({"image": images, "conversations": conversation(*values)})
    assert validate_row(row) == "chat"
    written = [rendered(message) for message in row["messages"]]
    assert written == ["<image>\n" * missing + values[0], *values[1:]]
    assert [image["path"] for image in row["images"]] == [f"/images/{name}" for name in images]


@given(st.integers(0, 3), st.integers(1, 3))
def test_more_markers_than_images_are_rejected(images, more):
    record = {"image": ["a.jpg"] * images, "conversations": conversation("<image>" * (images + more), "A")}
    with pytest.raises(RejectedRecord, match=rf"{images + more} <image> marker.* for {images} image"):
        convert(record)


def test_one_image_none_and_a_system_turn():
    talk = [{"from": "system", "value": "Be brief, <image> is text here."}, *conversation("What?", "A bus.")]
    row = convert({"image": "a.jpg", "conversations": talk})
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][1]["content"][0]["type"] == "image"
    assert convert({"conversations": talk})["images"] == convert({"image": [], "conversations": talk})["images"] == []


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"conversations": None}, "fields"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "roles"),
        ({"conversations": ["x"]}, "roles"),
        ({"conversations": conversation("Q", None)}, "fields"),
        ({"conversations": conversation("Q", " ")}, "no answer"),
        ({"conversations": []}, "no answer"),
        ({"image": 3, "conversations": conversation("Q", "A")}, "image"),
        ({"image": "../a.jpg", "conversations": conversation("Q", "A")}, "path"),
        ({"image": "https://example.org/a.jpg", "conversations": conversation("Q", "A")}, "path"),
        ({"image": "a.jpg", "conversations": conversation("A", speakers=("gpt", "human"))}, "markers"),
    ],
)
def test_malformed_records(record, kind):
    with pytest.raises(RejectedRecord) as caught:
        convert(record)
    assert caught.value.kind == kind
