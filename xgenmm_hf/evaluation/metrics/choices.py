"""Multiple choice: which option an answer means."""

import re
from collections.abc import Mapping

from xgenmm_hf.evaluation.metrics.vqa import normalise_answer


_ALONE = re.compile(r"\W*([A-Za-z])\W*")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_FIRST = re.compile(r"\(?([A-Z])(?:[.:)]|\s*\n)")
_NAMED = re.compile(r"(?i:\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*)\(?([A-Z])\b(?!')")


def read_choice(answer: str, choices: Mapping[str, str]) -> str | None:
    """Finds the option that an answer names.

    In this order: a letter alone; a letter in front of a stop, colon or bracket; the one letter behind "answer",
    "option" or "choice", or in brackets; the text of an option; the one option whose text occurs in the answer.

    Args:
        answer: What was answered.
        choices: Letter -> text of the option.

    Returns:
        The letter; None if the answer names no option, or several.
    """
    text = answer.strip()
    if (alone := _ALONE.fullmatch(text)) and alone[1].upper() in choices:
        return alone[1].upper()
    if (first := _FIRST.match(text)) and first[1] in choices:
        return first[1]
    for pattern in (_NAMED, _BRACKETED):
        named = {letter for letter in pattern.findall(text) if letter in choices}
        if len(named) == 1:
            return named.pop()
    said = normalise_answer(text)
    options = {letter: normalise_answer(option) for letter, option in choices.items()}
    for matches in (
        [letter for letter, option in options.items() if option == said],
        [letter for letter, option in options.items() if option and f" {option} " in f" {said} "],
    ):
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None
