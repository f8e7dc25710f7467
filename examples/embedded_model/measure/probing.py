"""Object probing: the measures of POPE.

Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models, arXiv 2305.10355, and its
evaluation code.
"""

from collections.abc import Sequence


def probing_shares(truth: Sequence[bool], said: Sequence[bool]) -> dict[str, float]:
    """Computes the measures of object probing.

    Args:
        truth: Whether each thing is there.
        said: Whether the model says so.

    Returns:
        Shares by name: accuracy; precision, recall and their harmonic mean f1, "yes" being the positive answer;
        yes_ratio, the share of "yes"; hallucinated, the share of "yes" where the thing is not there. Where a
        denominator is 0 the share is 0.

    Raises:
        ValueError: If there is nothing to measure.
    """
    if not truth:
        raise ValueError("There are no answers to measure.")
    hits = sum(one and other for one, other in zip(truth, said, strict=True))
    precision, recall = _share(hits, sum(said)), _share(hits, sum(truth))
    return {
        "accuracy": sum(one == other for one, other in zip(truth, said, strict=True)) / len(truth),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * precision * recall, precision + recall),
        "yes_ratio": sum(said) / len(said),
        "hallucinated": _share(sum(said) - hits, len(truth) - sum(truth)),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
