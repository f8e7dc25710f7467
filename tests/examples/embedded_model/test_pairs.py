import random
import re
from collections import Counter
from itertools import islice

import pytest
from embedded_model.world.language import caption, describe
from embedded_model.world.pairs import BOTH, FIRST, NEITHER, SECOND, ask_pair, pair_questions_of_split
from embedded_model.world.scene import HELD_OUT, TRAIN, make_scene, split_of
from embedded_model.world.wording import PLAIN


def asked(kind, count=400):
    stream = pair_questions_of_split(TRAIN, seed=3, wording=PLAIN)
    return list(islice(((scenes, question) for scenes, question in stream if question.kind == kind), count))


def test_kinds_take_turns_and_scenes_belong_to_the_split():
    questions = list(islice(pair_questions_of_split(HELD_OUT, seed=0), 40))
    assert Counter(question.kind for _, question in questions) == dict.fromkeys(
        ("of one", "which", "same", "more"), 10
    )
    assert all(split_of(scene) == HELD_OUT for scenes, _ in questions for scene in scenes)


def test_no_answer_is_right_most_of_the_time():
    for kind in ("which", "same", "more"):
        answers = Counter(question.answer for _, question in asked(kind))
        assert max(answers.values()) < 0.65 * sum(answers.values()), (kind, answers)


def test_which_image_has_it_is_told_by_the_scenes():
    seen = Counter()
    for scenes, question in asked("which"):
        name = question.text.split(" a ")[-1].split(" an ")[-1].removesuffix("?").removesuffix(" in")
        shown = tuple(
            any(
                name == describe(item, traits)
                for item in scene.items
                for traits in (("shape",), ("color",), ("color", "shape"))
            )
            for scene in scenes
        )
        assert question.answer == {(True, True): BOTH, (True, False): FIRST, (False, True): SECOND}.get(shown, NEITHER)
        seen[question.answer] += 1
    assert len(seen) == 4


def test_more_and_fewer_count_the_shapes():
    for scenes, question in asked("more"):
        first, second = (len(scene.items) for scene in scenes)
        assert first != second
        assert (question.answer == FIRST) == ((first > second) == ("more" in question.text))


def test_questions_about_one_image_name_it():
    names = [
        re.compile(rf"{ordinal} (image|picture)|(image|picture) {number}")
        for number, ordinal in ((1, FIRST), (2, SECOND))
    ]
    for _, question in asked("of one"):
        assert sum(name.search(question.text) is not None for name in names) == 1
        assert "the image" not in question.text and "this image" not in question.text


def test_captions_are_those_of_the_named_image():
    for seed in range(60):
        scenes = (make_scene(2 * seed), make_scene(2 * seed + 1))
        question = ask_pair(scenes, "caption", random.Random(seed))
        second = "second" in question.text or " 2" in question.text
        assert question.answer == caption(scenes[second])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Unknown kind of question 'sum': expected one of"):
        ask_pair((make_scene(0), make_scene(1)), "sum", random.Random(0))
