"""Comparing short texts: ANLS and exact match."""

from collections.abc import Sequence

from xgenmm_hf.evaluation.metrics.vqa import normalise_answer


ANLS_THRESHOLD = 0.5


def anls(answer: str, references: Sequence[str], threshold: float = ANLS_THRESHOLD) -> float:
    """Rates an answer by its normalised edit distance to the nearest reference.

    Letters' case and the width of spaces do not count.

    Args:
        answer: What was answered.
        references: Right answers.
        threshold: Similarities below it count as 0: the answer is something else, not a misread character.

    Returns:
        The similarity, from 0 to 1. Source: Biten et al., Scene Text Visual Question Answering, arXiv 1905.13648.
    """
    said = _small(answer)
    best = max((_similarity(said, _small(reference)) for reference in references), default=0.0)
    return best if best >= threshold else 0.0


def exact_match(answer: str, references: Sequence[str], normalise: bool = False) -> float:
    """Tells whether an answer is one of the right ones.

    Args:
        answer: What was answered.
        references: Right answers.
        normalise: Whether both are normalised as short answers are for VQA; else only spaces around them are removed.

    Returns:
        1 or 0.
    """
    prepare = normalise_answer if normalise else str.strip
    return float(prepare(answer) in {prepare(reference) for reference in references})


def edit_distance(one: str, other: str) -> int:
    """Counts the insertions, deletions and substitutions of characters that turn one text into another."""
    if len(one) < len(other):
        one, other = other, one
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], at
        for to, target in enumerate(other, start=1):
            diagonal, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, diagonal + (letter != target))
    return row[-1]


def _small(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1 - edit_distance(one, other) / longest if longest else 1.0
