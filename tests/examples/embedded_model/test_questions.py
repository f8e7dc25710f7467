import random
import re
from collections import Counter
from itertools import islice

import pytest
from embedded_model.world.language import caption, describe, place_name, pluralize
from embedded_model.world.questions import KINDS, ask, ask_several, questions_of_split, referring_traits
from embedded_model.world.scene import COLORS, HELD_OUT, SHAPES, TRAIN, make_scene, split_of
from embedded_model.world.wording import PLAIN, WORDINGS


def asked(count, kinds=None, split=TRAIN, wording=PLAIN):
    return list(islice(questions_of_split(split, 5, kinds, wording), count))


def meant(scene, phrase):
    """The items that a noun phrase such as "large red circle" or "shape at the top left" may mean."""
    name, _, place = re.sub(r" (at|on|in) the ", "|", phrase).partition("|")
    singular = {pluralize(noun): noun for noun in (*SHAPES, "shape")}
    words = [singular.get(word, word) for word in name.split()]
    return [
        item
        for item in scene.items
        if all(word in (item.size, item.color, item.shape, "shape") for word in words)
        and place in ("", place_name(scene, item.row, item.column))
    ]


def the_one(scene, phrase):
    found = meant(scene, phrase)
    assert len(found) == 1, (scene, phrase)
    return found[0]


def test_the_stream_is_deterministic_and_takes_turns():
    first = asked(60, wording=TRAIN)
    assert first == asked(60, wording=TRAIN)
    assert [question.kind for _, question in first] == list(KINDS) * 5


def test_questions_of_a_split_are_about_its_scenes():
    assert all(split_of(scene) == HELD_OUT for scene, _ in asked(60, split=HELD_OUT))


@pytest.mark.parametrize(("kind", "trait"), [("color", "color"), ("shape", "shape"), ("size", "size")])
def test_answers_name_the_trait_of_the_only_shape_that_is_meant(kind, trait):
    checked = 0
    for scene, question in asked(300, (kind,)):
        if "background" in question.text:
            assert question.answer == scene.background
            continue
        where = re.match(r"What shape is ((?:at|on|in) the .*)\?", question.text)
        phrase = f"shape {where[1]}" if where else re.search(r"is the (.*)\?", question.text)[1]
        assert getattr(the_one(scene, phrase), trait) == question.answer
        checked += 1
    assert checked > 200


@pytest.mark.parametrize(("kind", "ones"), [("count", 180), ("rare count", 120)])
def test_counts_are_right_and_not_mostly_one(kind, ones):
    answers = Counter()
    for scene, question in asked(300, (kind,)):
        phrase = re.match(r"How many (.*) are there\?", question.text)[1]
        assert question.answer == str(len(meant(scene, phrase)))
        assert f"{question.answer if question.answer != '0' else 'no'} " in question.sentence
        answers[question.answer] += 1
    assert answers["1"] < ones


def test_places_are_right():
    for scene, question in asked(300, ("place",)):
        if question.text == "Where is the word?":
            assert question.answer == place_name(scene, scene.word.row, scene.word.column)
            continue
        item = the_one(scene, re.search(r"Where is the (.*)\?", question.text)[1])
        assert question.answer == place_name(scene, item.row, item.column)


def test_relations_are_right_and_balanced():
    answers = Counter()
    for scene, question in asked(400, ("relation",)):
        if question.answer in ("yes", "no"):
            first, relation, second = re.match(
                r"Is the (.*) (left of|right of|above|below) the (.*)\?", question.text
            ).groups()
            one, other = the_one(scene, first), the_one(scene, second)
            holds = {
                "left of": one.column < other.column,
                "right of": one.column > other.column,
                "above": one.row < other.row,
                "below": one.row > other.row,
            }[relation]
            assert question.answer == ("yes" if holds else "no")
            answers[question.answer] += 1
        else:
            further, first, second = re.match(
                r"Which is (further left|further right|higher|lower), the (.*) or the (.*)\?", question.text
            ).groups()
            key = {
                "further left": ("column", 1),
                "further right": ("column", -1),
                "higher": ("row", 1),
                "lower": ("row", -1),
            }
            name, sign = key[further]
            places = {phrase: sign * getattr(the_one(scene, phrase), name) for phrase in (first, second)}
            assert places[first] != places[second]
            assert question.answer == min(places, key=places.get)
    assert 0.4 < answers["yes"] / sum(answers.values()) < 0.6


def test_presence_is_right_and_balanced():
    answers = Counter()
    for scene, question in asked(400, ("presence",)):
        phrase = re.match(r"Is there an? (.*)\?", question.text)[1]
        there = scene.word is not None if phrase == "word" else bool(meant(scene, phrase))
        assert question.answer == ("yes" if there else "no")
        answers[question.answer] += 1
    assert 0.4 < answers["yes"] / 400 < 0.6


def test_all_places_are_those_of_every_such_thing():
    for scene, question in asked(200, ("all places",)):
        found = meant(scene, re.match(r"Where are the (.*)\?", question.text)[1])
        assert re.split(r", | and ", question.answer) == [place_name(scene, item.row, item.column) for item in found]


def test_checks_are_right_and_balanced():
    answers = Counter()
    for scene, question in asked(600, ("check",)):
        if colored := re.match(r"Is the (?!word)(.*) (red|orange|yellow|green|blue|purple)\?", question.text):
            right = the_one(scene, colored[1]).color == colored[2]
        elif counted := re.match(r"Are there (\d) (.*)\?", question.text):
            right = len(meant(scene, counted[2])) == int(counted[1])
        elif worded := re.match(r"Is the word in the (?:image|picture) (.*)\?", question.text):
            right = scene.word.text == worded[1]
        else:
            name, place = re.match(r"Is the (.*) (?:at|on|in) the (.*)\?", question.text).groups()
            item = the_one(scene, name)
            right = place_name(scene, item.row, item.column) == place
        assert question.answer == ("yes" if right else "no")
        assert question.sentence.startswith("Yes, " if right else "No, ")
        answers[question.answer] += 1
    assert 0.4 < answers["yes"] / answers.total() < 0.6


@pytest.mark.parametrize("name", WORDINGS)
def test_wordings_are_many_and_the_held_out_ones_apart(name):
    trained, held_out = WORDINGS[name]
    assert len(set(trained)) >= (4 if name.startswith("check") else 5)
    assert len(set(held_out)) >= 2
    assert not set(trained) & set(held_out)


def test_held_out_wordings_are_in_no_training_question():
    seen = {question.text for _, question in asked(4000, wording=TRAIN)}
    held_out = {question.text for _, question in asked(2000, wording=HELD_OUT)}
    assert len(held_out) > 1000
    assert not seen & held_out


def test_people_say_image_and_picture():
    texts = [question.text for _, question in asked(1000, wording=TRAIN)]
    assert sum("image" in text for text in texts) > sum("picture" in text for text in texts) > 50


def test_words_and_captions_are_those_of_the_scene():
    for scene, question in asked(60, ("word",)):
        assert question.answer == scene.word.text
    for scene, question in asked(60, ("caption",)):
        assert question.answer == caption(scene)


def test_a_phrase_never_uses_the_trait_that_is_asked_for():
    for _, question in asked(300, ("color",)):
        if "background" not in question.text:
            assert not any(color in question.text for color in COLORS)
    for _, question in asked(300, ("shape",)):
        assert not any(shape in question.text for shape in SHAPES)


def test_referring_traits_mean_one_item_and_come_shortest_first():
    for seed in range(100):
        scene = make_scene(seed)
        for item in scene.items:
            found = referring_traits(scene, item)
            assert [len(traits) for traits in found] == sorted(len(traits) for traits in found)
            for traits in found:
                assert the_one(scene, describe(item, traits)) == item


def test_several_questions_differ():
    for seed in range(50):
        questions = ask_several(make_scene(seed), 6, random.Random(seed))
        assert 1 <= len(questions) <= 6
        assert len({question.text for question in questions}) == len(questions)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Unknown kind of question 'taste'.*color, shape"):
        ask(make_scene(0), "taste", random.Random(0))
