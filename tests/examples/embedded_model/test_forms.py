import random
import re

import pytest
from embedded_model.world.forms import FORMS, apply_form, draw_options, lettered, listed, sentence, short, yes_no
from embedded_model.world.questions import SHORT_KINDS, Question, questions_of_split
from embedded_model.world.scene import TRAIN


def asked(count=400, kinds=SHORT_KINDS):
    stream = questions_of_split(TRAIN, 11, kinds)
    return [next(stream)[1] for _ in range(count)]


def test_options_have_letters_and_the_answer_is_one_of_them_wherever_it_stands():
    letters = set()
    for number, question in enumerate(asked()):
        formed = lettered(question, random.Random(number))
        if formed is None:
            assert question.answer == "0"
            continue
        options = {text: letter for letter, text in re.findall(r"^([A-D])\. (.*)$", formed.text, flags=re.MULTILINE)}
        assert 2 <= len(set(options.values())) == len(options) <= 4
        assert formed.answer == question.answer
        letters.add(options[formed.answer])
    assert letters == set("ABCD")


def test_options_are_of_the_answers_kind():
    for number, question in enumerate(asked(kinds=("color",))):
        options = draw_options(question, random.Random(number))
        assert not {"white", "gray", "black"} & set(options) or "background" in question.text


def test_short_and_listed_forms_keep_the_answer():
    for number, question in enumerate(asked()):
        assert short(question, random.Random(number)).answer == question.answer
        formed = listed(question, random.Random(number))
        assert formed is None or question.answer in formed.text[len(question.text) :]


def test_yes_or_no_is_asked_for_only_where_it_is_the_answer():
    for number, question in enumerate(asked()):
        formed = yes_no(question, random.Random(number))
        assert (formed is None) == (question.answer not in ("yes", "no"))


def test_sentences_hold_the_answer():
    for number, question in enumerate(asked()):
        said = sentence(question, random.Random(number)).answer
        assert said[0].isupper() and said.endswith(".")
        if question.answer not in ("yes", "no", "0"):
            assert re.search(rf"\b{question.answer}\b", said)
        elif question.answer != "0":
            assert said.lower().startswith(question.answer)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_form_that_a_question_does_not_allow_leaves_it(form):
    question = Question("caption", "Describe the image.", "A star.")
    formed = apply_form(form, question, random.Random(0))
    assert formed.answer == question.answer
    assert formed == question or form is short
