"""Captions: CIDEr through pycocoevalcap, with a tokenizer that needs no Java.

The scores of pycocoevalcap's `Cider` (document frequencies from the references that are scored, CIDEr-D's clipping and
length penalty) are those that papers report. Only the tokenizer is another: COCO's evaluation runs Stanford's
PTBTokenizer in Java; `caption_tokens` does what that does with captions, and differs in what captions hardly hold:
addresses of the web, emoticons, abbreviations beyond the frequent ones, and words such as "rock'n'roll".
"""

import re
from collections.abc import Sequence


MISSING = "CIDEr needs the package pycocoevalcap: pip install xgenmm-hf[eval]."

_ABBREVIATIONS = (
    *("mr", "mrs", "ms", "dr", "st", "jr", "sr", "prof", "rev", "gen", "col", "lt", "sgt", "capt", "gov", "sen"),
    *("vs", "etc", "inc", "ltd", "co", "corp", "ave", "blvd", "mt", "ft", "mo", "rd"),
    *("jan", "feb", "aug", "sept", "oct", "nov", "dec"),
)
_LETTERS = r"[^\W_]"
_ENDING = r"(?:n't|'(?:s|m|d|ll|re|ve))\b"
_JOINED = rf"(?:(?!{_ENDING})['&@/_-]{_LETTERS}+)*"
_TOKEN = re.compile(
    rf"""
      (?:{"|".join(_ABBREVIATIONS)})\.(?!\w)
    | no\.(?=\ *\d)                                                  # no. 7
    | (?:[^\W\d_]\.){{2,}}(?!\w)                                     # u.s.
    | (?<![\w.])\.\d+                                                # .50
    | \d+(?:[.,:/]\d+)+(?!{_LETTERS})                                # 1,000  3.5  10:30  1/2
    | {_ENDING} | '(?:t(?=is\b|was\b)|n'?(?!\w)|em\b|cause\b|\d0s\b)
    | y'(?=all\b)
    | {_LETTERS}+?{_JOINED}?(?={_ENDING})                            # is|n't  t-shirt|'s
    | {_LETTERS}+{_JOINED}                                           # t-shirt  o'clock  b&w
    | \.\.\. | --+ | [!?]{{2,}} | \S
    """,
    re.VERBOSE,
)
_SPLIT = {
    word.replace("+", ""): word.split("+") for word in ("can+not", "gon+na", "wan+na", "got+ta", "lem+me", "gim+me")
}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# Brackets and doubled signs such as "!!" stay, as they do in COCO's evaluation.
_DROPPED = frozenset(('"', "'", "`", ".", "?", "!", ",", ":", "-", "...", ";"))
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "–": "--", "—": "--"})


def caption_tokens(text: str) -> list[str]:
    """Splits a caption into words as COCO's evaluation does: Penn Treebank tokens, small letters, no punctuation.

    Args:
        text: The caption.

    Returns:
        Its words.
    """
    words = []
    for token in _TOKEN.findall(text.translate(_PLAIN).lower()):
        if token not in _DROPPED and not token.startswith("--"):
            words += _SPLIT.get(token, [_BRACKETS.get(token, token)])
    return words


def cider(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Rates captions by CIDEr.

    A caption's score depends on the references of all images, which say how telling a word is; for a single image
    it is 0.

    Args:
        answers: A caption an image.
        references: For each image the captions that people wrote.

    Returns:
        A score an image, where papers state 100 times as much; their mean is the score of the whole.

    Raises:
        ValueError: If pycocoevalcap is not installed.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        raise ValueError(MISSING) from None

    truth = {number: [" ".join(caption_tokens(text)) for text in texts] for number, texts in enumerate(references)}
    said = {number: [" ".join(caption_tokens(text))] for number, text in enumerate(answers)}
    _, scores = Cider().compute_score(truth, said)
    return [float(value) for value in scores]
