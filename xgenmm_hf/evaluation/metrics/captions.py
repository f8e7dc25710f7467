"""Captions: CIDEr through pycocoevalcap, and a tokenizer for machines without Java.

pycocoevalcap's `Cider` gives the scores that papers report, with Stanford's PTBTokenizer, which runs in Java.
`caption_tokens` gives the same tokens except for text that is rare in captions: addresses of the web, emoticons,
abbreviations beyond the frequent ones, and words such as "rock'n'roll".
"""

import re
import shutil
from collections.abc import Sequence


_ABBREVIATIONS = (
    *("mr", "mrs", "ms", "dr", "st", "jr", "sr", "prof", "rev", "gen", "col", "lt", "sgt", "capt", "gov", "sen"),
    *("vs", "etc", "inc", "ltd", "co", "corp", "ave", "blvd", "mt", "ft", "mo", "rd"),
    *("jan", "feb", "aug", "sept", "oct", "nov", "dec"),
)
_LETTERS = r"[^\W_]"
_ENDING = r"(?:n't|'(?:s|m|d|ll|re|ve))\b"
_JOINED = rf"(?:(?!{_ENDING})['@/_.!?-]{_LETTERS}+)*"
_TOKEN = re.compile(
    rf"""
      (?:{"|".join(_ABBREVIATIONS)}|ph\.d)\.(?!\w)
    | no\.(?=\ *\d)                                                  # no. 7
    | (?:[^\W\d_]\.){{2,}}(?!\w)                                     # u.s.
    | (?<![\w.])\.\d+                                                # .50
    | \d+(?:[.,:/]\d+)+                                              # 1,000  3.5  10:30  1/2, of 1.5m too
    | (?-i:[A-Z]+&[A-Z]+)(?!\w)                                       # B&W, but b & w
    | {_ENDING} | '(?:t(?=is\b|was\b)|n'?(?!\w)|em\b|cause\b|\d0s\b)
    | y'(?=all\b)
    | {_LETTERS}+?{_JOINED}?(?={_ENDING})                            # is|n't  t-shirt|'s
    | {_LETTERS}+{_JOINED}                                           # t-shirt  o'clock  end.Next
    | \.\.\. | --+ | [!?]{{2,}} | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SPLIT = {
    word.replace("+", ""): word.split("+") for word in ("can+not", "gon+na", "wan+na", "got+ta", "lem+me", "gim+me")
}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# Brackets and doubled signs such as "!!" stay, as they do in COCO's evaluation.
_DROPPED = frozenset(('"', "'", "`", ".", "?", "!", ",", ":", "-", "...", ";"))
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "–": "--", "—": "--"})


def caption_tokens(text: str) -> list[str]:
    """Splits a caption into words as COCO's evaluation does: Penn Treebank tokens, lower case, no punctuation."""
    words = []
    for token in map(str.lower, _TOKEN.findall(text.translate(_PLAIN))):
        if token not in _DROPPED and not token.startswith("--"):
            words += _SPLIT.get(token, [_BRACKETS.get(token, token)])
    return words


def tokenizer_in_use() -> str:
    """Returns the name of the tokenizer that `cider` uses on this machine."""
    return "PTBTokenizer of pycocoevalcap (Java)" if shutil.which("java") else "caption_tokens (no Java here)"


def cider(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Rates captions by CIDEr; the references of all images weigh the words (a single image scores 0)."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        raise ValueError("CIDEr needs the package pycocoevalcap: pip install xgenmm-hf[eval].") from None
    said = tokenize_captions([[answer] for answer in answers])
    _, scores = Cider().compute_score(tokenize_captions(references), said)
    return [float(value) for value in scores]


def tokenize_captions(captions: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    """Tokenizes captions with the tokenizer in use; each becomes its words joined by single spaces."""
    numbered = dict(enumerate(captions))
    if not shutil.which("java"):
        return {number: [" ".join(caption_tokens(text)) for text in texts] for number, texts in numbered.items()}
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    rows = {number: [{"caption": " ".join(text.split())} for text in texts] for number, texts in numbered.items()}
    found = PTBTokenizer().tokenize(rows)
    if [len(found.get(number, [])) for number in rows] != [len(texts) for texts in captions]:
        raise ValueError("pycocoevalcap's tokenizer returned another number of captions: look at what Java printed.")
    return found
