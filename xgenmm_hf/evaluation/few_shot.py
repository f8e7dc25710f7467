"""In-context prompts of the base models: examples before the query, in the published format, chosen with a seed.

An example is `<image>`, its text with the answer, and `<|endofchunk|>`; examples stand one behind the other, and the
query, the same without answer and end, comes last. A sample with several images has as many `<image>`.

Source: BLIP-3's few-shot evaluation, which follows OpenFlamingo's (examples drawn at random, or those with the
nearest images, the nearest of them last).
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.evaluation.image_keys import image_key
from xgenmm_hf.evaluation.samples import Problem, Sample


if TYPE_CHECKING:
    import numpy as np

    from xgenmm_hf.evaluation.image_features import ImageFeatures

# Similarities that differ by less are the same: what is left is rounding, which differs between machines.
SIMILARITY_DIGITS = 5


def example_answer(sample: Sample, style: str) -> str | None:
    """Returns the answer that an example shows.

    Args:
        sample: The example.
        style: The task's prompt style.

    Returns:
        What most annotators said (of several, what was said first) for "vqa", else the first reference; None if the
        sample has none.
    """
    if not sample.references:
        return None
    return Counter(sample.references).most_common(1)[0][0] if style == "vqa" else sample.references[0]


def base_text(sample: Sample, style: str, answer: str | None = None) -> str:
    """Writes a sample's text in the base models' form, without its `<image>`.

    Args:
        sample: The sample.
        style: "vqa" asks for a short answer, "caption" only shows the image, another puts the text as it stands.
        answer: The answer of an example; None for the query.

    Returns:
        The text.
    """
    question = f"Question: {sample.text} Short answer:" if style == "vqa" else sample.text
    return " ".join(part for part in (question, answer) if part)


def base_content(query: Sample, shots: Sequence[Sample], style: str) -> list[dict[str, Any]]:
    """Builds a prompt in the base models' form as the parts of a pre-training row.

    Args:
        query: What to ask.
        shots: Its examples, each with a reference.
        style: The task's prompt style.

    Returns:
        Parts of type image, text and end_of_chunk.
    """
    from xgenmm_hf.data.rows import end_of_chunk_part, image_part, text_part

    parts: list[dict[str, Any]] = []
    for sample in shots:
        text = base_text(sample, style, example_answer(sample, style))
        parts += [*(image_part() for _ in sample.images), text_part(text), end_of_chunk_part()]
    return [*parts, *(image_part() for _ in query.images), text_part(base_text(query, style))]


def trim_continuation(answer: str, style: str) -> str:
    """Cuts an answer where a base model began to write a further example without ending its own.

    Args:
        answer: What was generated before the first control token.
        style: The task's prompt style.

    Returns:
        The answer alone.
    """
    if style == "vqa":
        for mark in ("Question:", "Short answer:"):
            answer = answer.split(mark)[0]
    return answer.strip()


class Examples:
    """Chooses the examples of each query; a query's choice depends on nothing but itself, the support and the seed.

    A sample is never an example of itself: those with its id or with one of its images are passed over, and so are
    those whose image cannot be read, which are reported.

    Args:
        support: What to choose from; samples without a reference are left out.
        count: Examples a query.
        style: The task's prompt style.
        seed: Seed of the random choice.
        features: Features of images; given, the examples with the nearest images are chosen.

    Raises:
        ValueError: If the support is too small.
    """

    def __init__(
        self,
        support: Sequence[Sample],
        count: int,
        style: str,
        *,
        seed: int = 0,
        features: "ImageFeatures | None" = None,
    ):
        self.support = [sample for sample in support if example_answer(sample, style) is not None]
        self.count, self.seed, self.features = count, seed, features
        self.problems: list[Problem] = []
        if len(self.support) <= count:
            raise ValueError(
                f"{count} examples a query need a support of more than {count} samples with answers; there are "
                f"{len(self.support)}: give a larger --support, or fewer --shots."
            )
        self._keys = [frozenset(map(image_key, sample.images)) for sample in self.support]
        self._readable: dict[int, bool] = {}
        self._matrix: np.ndarray | None = None
        if features is not None:
            self._matrix = features.of_samples(self.support)

    def choose(self, query: Sample) -> list[Sample]:
        """Chooses the examples of a query.

        Args:
            query: What will be asked.

        Returns:
            The examples in the order in which they are shown; of retrieved ones the nearest is last.

        Raises:
            ValueError: If fewer than wanted are left, or images are to be compared and the query has none.
        """
        keys = frozenset(map(image_key, query.images))
        chosen: list[int] = []
        for index in self._by_distance(query) if self.features is not None else self._at_random(query):
            same = self.support[index].id == query.id or not keys.isdisjoint(self._keys[index])
            if not same and self._can_be_shown(index):
                chosen.append(index)
                if len(chosen) == self.count:
                    break
        if len(chosen) < self.count:
            raise ValueError(
                f"only {len(chosen)} of {self.count} examples are left without the sample itself, others about its "
                "images, and unreadable ones"
            )
        return [self.support[index] for index in (reversed(chosen) if self.features is not None else chosen)]

    def _at_random(self, query: Sample) -> Iterator[int]:
        """Yields all indices of the support in a random order that the seed and the query's id decide."""
        rng = random.Random(f"{self.seed}/{query.id}")
        seen: set[int] = set()
        while len(seen) < len(self.support):
            index = rng.randrange(len(self.support))
            if index not in seen:
                seen.add(index)
                yield index

    def _by_distance(self, query: Sample) -> Iterator[int]:
        """Yields the indices of the support, nearest first; ties go to the earlier sample."""
        if not query.images:
            raise ValueError("it has no image to find nearest examples for")
        if self.features is None or self._matrix is None:
            return
        similarities = (self._matrix @ self.features.of_samples([query])[0]).round(SIMILARITY_DIGITS)
        yield from (-similarities).argsort(kind="stable").tolist()

    def _can_be_shown(self, index: int) -> bool:
        """Tells whether an example's images can be read, and reports it once if not."""
        if index not in self._readable:
            sample = self.support[index]
            try:
                for image in sample.images:
                    open_image(image)
                self._readable[index] = True
            except UnreadableImage as error:
                self._readable[index] = False
                self.problems.append(Problem("support", f"sample {sample.id}", str(error).rstrip(".")))
        return self._readable[index]
