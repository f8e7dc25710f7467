"""Which option, and which of "yes" and "no", an answer means, as VLMEvalKit's exact matching reads it.

Source: VLMEvalKit, vlmeval/utils/matching_util.py (can_infer) and vlmeval/dataset/utils/yorn.py (YOrN_Extraction);
where VLMEvalKit is installed a test compares with them.
"""

import re
from collections.abc import Mapping


_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# A letter counts if it is one of the last words.
_LAST_WORDS = 4
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def read_choice(answer: str, choices: Mapping[str, str]) -> str | None:
    """Finds the option that an answer names: its letter among the last four words, or else its text."""
    if any(refusal in answer for refusal in _REFUSALS):
        return None
    words = answer.translate(_SIGNS).split()
    # A backslash command such as \boxed stays a word of its own.
    named = [letter for letter in choices if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
        return named[0]
    if not named and "Z" in words:
        return None
    small = answer.lower()
    if len(small) > 2 * sum(map(len, choices.values())):
        return None
    held = [letter for letter, text in choices.items() if text.lower() in small]
    return held[0] if len(held) == 1 else None


def read_yes_no(answer: str) -> str | None:
    """Finds out whether an answer says "yes" or "no"; markup such as `**No**` does not hide it."""
    words = set(re.findall(r"[^\W_]+(?:'[^\W_]+)*", answer.lower()))
    said = words & {"yes", "no"}
    return said.pop() if len(said) == 1 else None
