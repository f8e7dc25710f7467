"""VQA accuracy: answers normalised as the official evaluation does it, and compared with those of ten annotators.

Source: the evaluation code of visualqa.org, in the version that OpenFlamingo's few-shot evaluation uses as well.
"""

import re
from collections.abc import Sequence


_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_AS_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official code passes a flag where a count belongs, so that it removes at most this number of periods.
_MOST_PERIODS = 32
# Enough matches for a full score.
_FULL = 3

# Words whose apostrophe annotators forget. "let's" and "she's" are not among them: "lets" and "shes" stay.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


_CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at in range(len(word)) if word[at] == "'"
}
# The one entry that the official table has the wrong way round.
_CONTRACTIONS["somebody'd"] = "somebodyd"


def normalise_answer(text: str) -> str:
    """Normalises a short answer: punctuation, case, number words up to ten, articles, apostrophes of contractions."""
    stripped = _strip_punctuation(_on_one_line(text))
    words = (_AS_DIGITS.get(word, word) for word in stripped.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Rates an answer by those of several annotators, by the rule of VQAv2's and OK-VQA's official code.

    Texts are normalised only where the annotators differ: "Yes" is wrong where all said "yes".
    """
    said, truth = _on_one_line(answer), [_on_one_line(reference) for reference in references]
    if len(set(truth)) > 1:
        said, truth = normalise_answer(said), [normalise_answer(reference) for reference in truth]
    return _leave_one_out(said, truth)


def textvqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Rates an answer by TextVQA's rule: as `vqa_accuracy`, but texts are always normalised, by its own steps."""
    small = (text.lower().replace(",", "").replace("?", "").replace("'s", " 's") for text in (answer, *references))
    said, *truth = (normalise_answer(text.strip()) for text in small)
    return _leave_one_out(said, truth)


def _leave_one_out(said: str, truth: Sequence[str]) -> float:
    """Returns the mean over annotators, each left out once, of the share of three others that match, at most 1."""
    count = len(truth)
    if count < 2:
        raise ValueError(
            f"VQA accuracy got {count} reference(s); it needs the answers of several annotators: use the metric exact "
            "for data with one right answer."
        )
    matches = truth.count(said)
    left_out_match, left_out_other = min(1.0, (matches - 1) / _FULL), min(1.0, matches / _FULL)
    return (matches * left_out_match + (count - matches) * left_out_other) / count


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Returns whether an answer is one of the right ones after normalisation: 1 or 0."""
    return float(normalise_answer(answer) in {normalise_answer(reference) for reference in references})


def contains(answer: str, references: Sequence[str]) -> float:
    """Tells whether an answer holds one of the right ones as whole words after normalisation: 1 or 0."""
    said = f" {normalise_answer(answer)} "
    return float(any(f" {one} " in said for one in map(normalise_answer, references) if one))


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _strip_punctuation(text: str) -> str:
    """Removes punctuation; a sign becomes a space unless it stands next to one or the text has a number like 1,000."""
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    stripped = text
    for sign in _PUNCTUATION:
        goes = has_number or f"{sign} " in text or f" {sign}" in text
        stripped = stripped.replace(sign, "" if goes else " ")
    return _PERIOD.sub("", stripped, count=_MOST_PERIODS)
