"""The forms that users and evaluation harnesses ask a question in: suffixes, lettered options, whole sentences.

Sources of the suffixes: the task files of lmms-eval and the data set classes of VLMEvalKit; what stands in quotes is
what a model is sent.
"""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import replace

from embedded_model.world.language import PLACES
from embedded_model.world.questions import NO, YES, Question
from embedded_model.world.scene import BACKGROUNDS, COLORS, SHAPES, SIZES, WORDS


# lmms-eval and VLMEvalKit: VQAv2, GQA, TextVQA, POPE, MME and others.
SINGLE_WORD = "\nAnswer the question using a single word or phrase."
# VLMEvalKit: MME, POPE.
YES_OR_NO = " Please answer yes or no."
# lmms-eval: MMBench, SEED, MMStar, ScienceQA and others.
LETTER = "Answer with the option's letter from the given choices directly."
# VLMEvalKit: every data set of multiple choice.
SELECT = "Please select the correct answer from the options above."
_SHORT = (
    SINGLE_WORD,
    SINGLE_WORD,
    SINGLE_WORD,
    "\nAnswer the question with a single word.",
    "\nAnswer with a single word.",
    "\nGive a very brief answer.",
    "\nAnswer the question directly.",
    " Answer briefly.",
    "\nShort answer:",
    " Answer in one word.",
)
_YES_NO = (
    YES_OR_NO,
    YES_OR_NO,
    "\nPlease answer yes or no.",
    "\nAnswer the question with Yes or No.",
    "\nAnswer yes or no.",
    f"{YES_OR_NO}{SINGLE_WORD}",
)
_SENTENCE = (
    "\nAnswer in a full sentence.",
    "\nAnswer with a complete sentence.",
    " Answer in a sentence.",
    "\nPlease answer in one full sentence.",
)
_LETTERED = (
    f"{{question}}\n{{options}}\n{LETTER}",
    f"{{question}}\n{{options}}\n{LETTER}",
    f"{{question}} There are several options:\n{{options}}\n\n{LETTER}",
    f"{{question}} There are several options:\n{{options}}\n\n{LETTER}",
    f"Question: {{question}}\nOptions:\n{{options}}\n{SELECT}",
    f"Question: {{question}}\nOptions:\n{{options}}\n{SELECT} \n",
    f"Hint: Look at the image.\nQuestion: {{question}}\nOptions:\n{{options}}\n{SELECT}",
    "{question}\n{options}\nAnswer with the letter.",
    "{question}\n{options}",
    "{question}\n{options}\nAnswer:",
)
_VALUES = {
    "color": COLORS,
    "background": BACKGROUNDS,
    "shape": SHAPES,
    "size": SIZES,
    "place": PLACES,
    "word": WORDS,
    "count": tuple(map(str, range(1, 7))),
}
MAX_OPTIONS = 4


def plain(question: Question, rng: random.Random) -> Question:
    """Leaves a question as it is."""
    return question


def short(question: Question, rng: random.Random) -> Question:
    """Asks for a short answer, which it is anyway."""
    return replace(question, text=question.text + rng.choice(_SHORT))


def yes_no(question: Question, rng: random.Random) -> Question | None:
    """Asks for yes or no, where that is the answer."""
    if question.answer not in (YES, NO):
        return None
    return replace(question, text=question.text + rng.choice(_YES_NO))


def sentence(question: Question, rng: random.Random) -> Question | None:
    """Asks for a sentence, where the question has one."""
    if not question.sentence:
        return None
    return replace(question, text=question.text + rng.choice(_SENTENCE), answer=question.sentence)


def lettered(question: Question, rng: random.Random, templates: Sequence[str] = _LETTERED) -> Question | None:
    """Gives options with letters, in random order; the answer is the option's words.

    Five layers do not learn to tell the letter: they look the answer up in the image, but cannot then look up its
    letter among the options. The harnesses' readers take the words of exactly one option for its letter.
    """
    options = draw_options(question, rng)
    if options is None:
        return None
    return replace(question, text=rng.choice(templates).format(question=question.text, options=list_options(options)))


def listed(question: Question, rng: random.Random) -> Question | None:
    """Names the options behind the question, without letters; the answer is one of them."""
    options = draw_options(question, rng)
    if options is None or question.answer in (YES, NO):
        return None
    named = f"{', '.join(options[:-1])} or {options[-1]}"
    text = rng.choice(("{} Choose from {}.", "{} Is it {}?", "{}\nOptions: {}.")).format(question.text, named)
    return replace(question, text=text)


def draw_options(question: Question, rng: random.Random) -> list[str] | None:
    """Draws options among which the answer is, in random order.

    Args:
        question: The question.
        rng: Source of randomness; it is advanced.

    Returns:
        Two to four options; None where the question has no closed set of answers.
    """
    if question.answer in (YES, NO):
        options = [YES, NO]
    elif question.options:
        options = list(question.options)
    else:
        values: Sequence[str] = _VALUES.get(question.values, ())
        others = [value for value in values if value != question.answer]
        if question.answer not in values or not others:
            return None
        options = [question.answer, *rng.sample(others, min(len(others), rng.randint(1, MAX_OPTIONS - 1)))]
    rng.shuffle(options)
    return options


def list_options(options: Sequence[str]) -> str:
    """Writes options as "A. red" and so on, each in a line of its own."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))


Form = Callable[[Question, random.Random], Question | None]
# How often each is drawn; one that a question does not allow leaves it plain.
FORMS: dict[Form, int] = {plain: 36, short: 16, lettered: 20, yes_no: 10, sentence: 14, listed: 4}


def single_word(question: Question, rng: random.Random) -> Question:
    """Asks as lmms-eval and VLMEvalKit do for VQAv2, POPE and others."""
    return replace(question, text=question.text + SINGLE_WORD)


def lmms_eval_letters(question: Question, rng: random.Random) -> Question | None:
    """Gives options as lmms-eval does."""
    return lettered(question, rng, _LETTERED[:1])


def lmms_eval_mmbench(question: Question, rng: random.Random) -> Question | None:
    """Gives options as lmms-eval does for MMBench."""
    return lettered(question, rng, _LETTERED[2:3])


def vlmevalkit_letters(question: Question, rng: random.Random) -> Question | None:
    """Gives options as VLMEvalKit does."""
    return lettered(question, rng, _LETTERED[4:5])


HARNESS_FORMS: dict[str, Form] = {
    "single word or phrase": single_word,
    "letters, lmms-eval": lmms_eval_letters,
    "letters, MMBench of lmms-eval": lmms_eval_mmbench,
    "letters, VLMEvalKit": vlmevalkit_letters,
    "options without letters": listed,
}


def draw_form(rng: random.Random) -> Form:
    """Draws one of `FORMS`."""
    return rng.choices(list(FORMS), weights=list(FORMS.values()))[0]


def apply_form(form: Form, question: Question, rng: random.Random) -> Question:
    """Puts a question into a form; one that it does not allow leaves it as it is."""
    return form(question, rng) or question
