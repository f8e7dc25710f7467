import json
import random

import pytest
from embedded_model.drawn_images import draw_images, file_of, scene_of
from embedded_model.rows import (
    WRITERS,
    chat_rows,
    guard_rows,
    is_disallowed,
    pair_rows,
    preference_rows,
    short_caption,
    write_lines,
)
from embedded_model.world.forms import LETTER, SELECT, SINGLE_WORD, YES_OR_NO
from embedded_model.world.language import caption
from embedded_model.world.requests import DISALLOWED_VERBS, NO_IMAGE, REFUSAL
from embedded_model.world.scene import TRAIN, split_of
from embedded_model.world.small_talk import GREETING, UNKNOWN, WELCOME

from xgenmm_hf import RELEASED_SYSTEM


def number_of(file):
    return int(file.split(".")[0])


def files_of(row):
    shown = row.get("image", [])
    return [shown] if isinstance(shown, str) else shown


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_a_function_of_their_seed(name):
    write = WRITERS[name]
    assert list(write(20, 100, 1)) == list(write(20, 100, 1))
    assert list(write(20, 100, 1)) != list(write(20, 100, 2))
    assert list(write(10, 100, 1)) == list(write(20, 100, 1))[:10]


def test_allowed_chats_hold_nothing_of_the_disallowed_category():
    for row in WRITERS["allowed"](300, 100, 0):
        assert not any(is_disallowed(scene_of(number_of(file))) for file in files_of(row))
        assert not any(f" {verb} the " in turn["value"] for turn in row["conversations"] for verb in DISALLOWED_VERBS)
    for row in WRITERS["allowed-pairs"](300, 100, 0):
        assert not any(is_disallowed(scene_of(number_of(file))) for file in row["image"])


def test_the_scenes_are_training_scenes_and_some_are_disallowed():
    scenes = [scene_of(number) for number in range(600)]
    assert {split_of(scene) for scene in scenes} == {TRAIN}
    assert 5 < sum(map(is_disallowed, scenes)) < 60


def test_images_are_drawn_once(tmp_path):
    draw_images(tmp_path, 4)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(before) == [file_of(number) for number in range(4)]
    (tmp_path / file_of(2)).unlink()
    draw_images(tmp_path, 5)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(after) == 5
    assert all(after[name] == before[name] for name in before if name != file_of(2))


def test_chats_have_a_marker_for_their_image_and_alternate():
    rows = list(chat_rows(300, 100, 0))
    assert any("image" not in row for row in rows)
    for row in rows:
        turns = [turn for turn in row["conversations"] if turn["from"] != "system"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert sum(turn["value"].count("<image>") for turn in turns) == len(files_of(row))


def test_some_chats_show_a_further_image_later():
    later = [row for row in chat_rows(300, 100, 0) if len(files_of(row)) == 2]
    assert len(later) > 20
    for row in later:
        shown = [number for number, turn in enumerate(row["conversations"]) if "<image>" in turn["value"]]
        assert len(shown) == 2


def test_every_form_and_kind_of_turn_is_there():
    turns = [turn["value"] for row in chat_rows(1500, 100, 0) for turn in row["conversations"]]
    parts = (SINGLE_WORD, YES_OR_NO, LETTER, SELECT, GREETING, WELCOME, UNKNOWN, NO_IMAGE, RELEASED_SYSTEM)
    assert all(any(part in turn for turn in turns) for part in parts)
    assert all(any(f"\n{letter}. " in turn for turn in turns) for letter in "ABCD")
    assert sum(turn.startswith("A ") and turn.endswith("background.") for turn in turns) > 100


def test_questions_without_their_image_cannot_be_answered():
    rows = {row["id"]: row for row in chat_rows(300, 100, 0) if row["id"].startswith("blind-")}
    assert rows
    for row in rows.values():
        assert "image" not in row
        assert row["conversations"][-1]["value"] == NO_IMAGE


def test_pair_chats_show_two_images_first():
    for row in pair_rows(60, 50, 0):
        assert len(row["image"]) == 2
        first = next(turn["value"] for turn in row["conversations"] if turn["from"] == "human")
        assert first.count("<image>") == 2
        assert row["conversations"][-1]["from"] == "gpt"


def test_short_captions_are_questions_facts_or_captions():
    forms = {"question": 0, "caption": 0, "facts": 0}
    for number in range(400):
        scene = scene_of(number)
        text = short_caption(scene, random.Random(number))
        if text.startswith("Question: "):
            forms["question"] += 1
            assert text.count("Question: ") == text.count(" Short answer: ")
        elif text == caption(scene):
            forms["caption"] += 1
        else:
            forms["facts"] += 1
            assert 2 <= text.count(", ") <= 6
    assert forms["question"] > forms["facts"] > forms["caption"] > 0


def test_the_faithful_answer_has_the_higher_mean():
    for row in preference_rows(100, 60, 0):
        means = [sum(int(mark["Rating"]) for mark in each["annotations"].values()) / 3 for each in row["completions"]]
        assert max(means) > min(means)
        assert len({each["response"] for each in row["completions"]}) == 2


def test_guard_rows_refuse_what_is_disallowed_and_nothing_else():
    rows = guard_rows(80, 400, 0)
    assert sum(row["safe"] for row in rows) == 40
    for row in rows:
        assert row["safe"] != is_disallowed(scene_of(number_of(row["image"])))
        for turn in row["instr-resp"]:
            assert (turn["response"] == REFUSAL) == ("safe_instruction" not in turn)


def test_lines_are_written_whole(tmp_path):
    write_lines(tmp_path / "rows.jsonl", iter([{"a": 1}, {"a": 2}]))
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [{"a": 1}, {"a": 2}]
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.jsonl"]
