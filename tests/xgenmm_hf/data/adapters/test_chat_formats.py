"""The Hub's messages, The Cauldron, VLGuard and VLFeedback."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xgenmm_hf.data.adapters import ADAPTERS
from xgenmm_hf.data.adapters.base import Context
from xgenmm_hf.data.adapters.preferences import ASPECTS, mean_rating
from xgenmm_hf.data.fields import RejectedRecord, SkippedRecord
from xgenmm_hf.data.image_refs import Roots
from xgenmm_hf.data.rows import validate_row


CONTEXT = Context("set", Roots(default="/images"))
PNG = {"bytes": b"png", "path": "0.png"}


def convert(format, record):
    rows = list(ADAPTERS[format].convert(record, "1", CONTEXT))
    for row in rows:
        assert validate_row(row) == ADAPTERS[format].kind_of(record)
    return rows


def chat(*contents):
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)]


def test_contents_of_strings_markers_and_parts():
    image, text = {"type": "image", "text": None}, {"type": "text", "text": "What?"}
    for content in ("What?", "<image>\nWhat?", [image, text], [{"type": "image"}, "What?"], [text]):
        (row,) = convert("hub", {"image": PNG, "messages": chat(content, "A bus.")})
        assert row["messages"][0]["content"] == [image, text]
        assert row["images"] == [PNG]


def test_prompts_with_completions_and_pairs():
    (row,) = convert("hub", {"prompt": "What?", "completion": "A bus.", "images": [PNG]})
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    (row,) = convert("hub", {"prompt": chat("What?"), "completion": [{"role": "assistant", "content": "A bus."}]})
    assert row["messages"][1]["content"][0]["text"] == "A bus."
    pair = {"prompt": chat("What?"), "chosen": "A bus.", "rejected": [{"role": "assistant", "content": "A dog."}]}
    (row,) = convert("hub", {**pair, "images": [PNG], "messages": None})
    assert row["prompt"][0]["content"][0]["type"] == "image"
    assert (row["chosen"][0]["content"][0]["text"], row["rejected"][0]["content"][0]["text"]) == ("A bus.", "A dog.")


def test_an_answer_in_the_prompt_of_a_completion_is_refused():
    asked = chat("What?", "A bus.", "Which color?")
    with pytest.raises(RejectedRecord, match="prompt holds an answer, which would be trained too") as caught:
        convert("hub", {"prompt": asked, "completion": "Red."})
    assert caught.value.kind == "roles"
    (row,) = convert("hub", {"prompt": asked, "chosen": "Red.", "rejected": "Blue."})
    assert len(row["prompt"]) == 3


@pytest.mark.parametrize(
    "record",
    [
        {"messages": chat("<image><image>", "x"), "images": [PNG]},
        {"messages": "text"},
        {"messages": [{"content": "x"}]},
        {"messages": chat([{"type": "video"}], "x")},
        {"messages": chat(None, "x")},
        {"prompt": "x", "completion": 3},
        {"messages": chat("x", "y"), "images": [{"bytes": None, "path": None}]},
    ],
)
def test_malformed_messages(record):
    with pytest.raises(RejectedRecord):
        convert("hub", record)


def test_the_cauldrons_texts_are_one_chat():
    texts = [{"user": "<image> is a tag?", "assistant": "Yes.", "source": name} for name in ("a", "b")]
    (row,) = convert("cauldron", {"images": [PNG, PNG], "texts": texts})
    kinds = [part["type"] for part in row["messages"][0]["content"]]
    assert kinds == ["image", "image", "text"]
    assert (row["source"], len(row["messages"])) == ("set", 4)
    with pytest.raises(RejectedRecord):
        convert("cauldron", {"images": [PNG], "texts": [{"user": "x", "assistant": ""}]})
    with pytest.raises(RejectedRecord):
        convert("cauldron", {"images": [PNG], "texts": []})


def test_vlguards_three_kinds():
    unsafe = {"image": "a.png", "safe": False, "instr-resp": [{"instruction": "Do it.", "response": "No."}]}
    (row,) = convert("vlguard", unsafe)
    assert row["source"] == "set/unsafe_image"
    # As `datasets` stores the pairs: every field, those missing as None.
    pairs = [
        {"safe_instruction": "What?", "unsafe_instruction": None, "response": "A bus."},
        {"safe_instruction": None, "unsafe_instruction": "Do it.", "response": "No."},
    ]
    rows = convert("vlguard", {"image": "a.png", "safe": True, "instr-resp": pairs})
    assert [row["source"] for row in rows] == ["set/safe", "set/unsafe_instruction"]
    assert rows[0]["images"] == rows[1]["images"]
    assert len({row["id"] for row in convert("vlguard", {**unsafe, "instr-resp": unsafe["instr-resp"] * 2})}) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"safe": None},
        {"image": None},
        {"instr-resp": []},
        {"instr-resp": ["x"]},
        {"instr-resp": [{"instruction": "x", "response": "y"}]},
        {"instr-resp": [{"safe_instruction": "x"}]},
    ],
)
def test_malformed_safety_records(change):
    record = {"image": "a.png", "safe": True, "instr-resp": [{"safe_instruction": "x", "response": "y"}]}
    assert len(convert("vlguard", record)) == 1
    with pytest.raises(RejectedRecord):
        convert("vlguard", {**record, **change})


def completion(response, *ratings):
    annotations = {aspect: {"Rating": rating} for aspect, rating in zip(ASPECTS, ratings, strict=True)}
    return {"response": response, "annotations": annotations}


def feedback(*completions):
    return {"id": "a", "prompt": "What?", "completions": list(completions)}


def test_the_highest_and_the_lowest_mean_make_the_pair():
    record = feedback(
        completion("middle", "3", "3", "3"), completion("best", 5, "4", "5"), completion("worst", "1", 5, "2")
    )
    (row,) = convert("vlfeedback", record)
    assert (row["chosen"][0]["content"][0]["text"], row["rejected"][0]["content"][0]["text"]) == ("best", "worst")
    assert row["images"][0]["path"] == "/images/merged_images/a.jpg"
    columns = {key: [item[key] for item in record["completions"]] for key in ("response", "annotations")}
    assert convert("vlfeedback", {**record, "completions": columns, "image": PNG})[0]["chosen"] == row["chosen"]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (feedback(completion("a", "3", "3", "3"), completion("b", "2", "3", "4")), "tie"),
        (feedback(completion("a", "3", "3", "3"), completion("b", "N/A", "3", "4")), "incomplete"),
        (feedback(completion("a", "3", "3", "3"), completion("b", "9", "3", "4")), "incomplete"),
        (feedback(completion("a", "3", "3", "3"), completion(" ", "1", "3", "4")), "incomplete"),
        (feedback(completion("a", "3", "3", "3"), {"response": "b", "annotations": None}), "incomplete"),
        (feedback(completion("a", "3", "3", "3"), completion("a ", "1", "1", "1")), "same answer"),
    ],
)
def test_what_gives_no_pair(record, kind):
    with pytest.raises(SkippedRecord) as caught:
        convert("vlfeedback", record)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "change", [{"prompt": ""}, {"completions": "x"}, {"completions": {"response": ["x"], "model": []}}]
)
def test_malformed_feedback(change):
    with pytest.raises(RejectedRecord):
        convert("vlfeedback", {**feedback(completion("a", "3", "3", "3")), **change})


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_the_mean_of_three_ratings(ratings):
    assert mean_rating(completion("x", *map(str, ratings))["annotations"]) == sum(ratings) / 3
