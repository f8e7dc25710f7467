"""In-context prompts of the base models: examples before the query, by one of two protocols, chosen with a seed.

An example is `<image>`, its text with the answer, and `<|endofchunk|>`; the query, the same without answer and end,
comes last. "xgenmm" is the form of the published notebook of the base model, "openflamingo" OpenFlamingo's.

Source: the base model's published notebook; OpenFlamingo's evaluation (open_flamingo/eval of its repository).
"""

import random
import re
import runpy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

from xgenmm_hf.data.image_refs import UnreadableImage, image_key, open_image
from xgenmm_hf.data.rows import end_of_chunk_part, image_part, text_part
from xgenmm_hf.evaluation.samples import Sample, SampleProblem
from xgenmm_hf.modeling.chat_xgenmm import IMAGE_TOKEN


@dataclass(frozen=True)
class Protocol:
    """How examples and queries are written, and where an answer ends; mappings are keyed by prompt style."""

    texts: Mapping[str, str]  # of a query; {} is the question
    space: str  # between that text and the answer of an example
    behind: str  # text after an example's <|endofchunk|>
    ends: Mapping[str, str]  # patterns at which an answer is cut
    dropped: Mapping[str, str] = field(default_factory=dict)  # characters removed from answers
    blind_examples: int = 0  # examples without images if no shots are asked for
    first_answer: bool = False  # an example shows the first annotator's answer, not the most frequent one
    answer_tokens: Mapping[str, int] = field(default_factory=dict)  # maximum per answer
    generation: Mapping[str, Any] = field(default_factory=dict)  # options of generate


PROTOCOLS = {
    "xgenmm": Protocol({"vqa": "Question: {} Short answer:"}, " ", "", {"vqa": "Question:|Short answer:"}),
    "openflamingo": Protocol(
        {"vqa": "Question:{} Short answer:", "caption": "Output:"},
        "",
        "\n",
        {"vqa": "Question|Answer|Short|, ", "caption": "Output"},
        dropped={"caption": '"'},
        blind_examples=2,
        first_answer=True,
        answer_tokens={"vqa": 5, "caption": 20},
        generation={"num_beams": 3, "length_penalty": 0.0},
    ),
}


def example_answer(sample: Sample, style: str, first: bool = False) -> str | None:
    """Returns the answer that an example shows."""
    if not sample.references:
        return None
    most = Counter(sample.references).most_common(1)[0][0]
    return most if style == "vqa" and not first else sample.references[0]


def base_content(
    query: Sample, shots: Sequence[Sample], style: str, rules: Protocol, instruction: str | None = None
) -> list[dict[str, Any]]:
    """Builds a prompt in the base models' form as the parts of a pre-training row."""
    parts: list[dict[str, Any]] = []
    for number, sample in enumerate((*shots, query)):
        text = rules.texts.get(style, "{}").format(sample.text or instruction or "")
        parts += parts_of(sample, text)
        if number < len(shots):
            answer = (example_answer(sample, style, rules.first_answer) or "").strip()
            parts += [text_part((rules.space if text else "") + answer), end_of_chunk_part()]
            parts += [text_part(rules.behind)] if rules.behind else []
    return parts


def parts_of(sample: Sample, text: str) -> list[dict[str, Any]]:
    """Returns a sample's images and the text that asks about them, in their order."""
    pieces = split_at_marks(text) if sample.marked else [*(None for _ in sample.images), *([text] if text else [])]
    return [image_part() if piece is None else text_part(piece) for piece in pieces]


def split_at_marks(text: str) -> list[str | None]:
    """Returns the pieces of a text around its `<image>` marks, and None for each mark."""
    pieces = re.split(f"({IMAGE_TOKEN})", text)
    return [None if piece == IMAGE_TOKEN else piece for piece in pieces if piece]


def cut_answer(answer: str, style: str, rules: Protocol, kind: str = "") -> str:
    """Cuts an answer where the base model starts to write another example."""
    stems = kind == "okvqa" and rules is PROTOCOLS["openflamingo"]
    pattern = "Question|Answer|Short" if stems else rules.ends.get(style)
    answer = re.split(pattern, answer, maxsplit=1)[0] if pattern else answer
    answer = "".join(sign for sign in answer if sign not in rules.dropped.get(style, "")).strip()
    return stem_answer(answer) if stems else answer


def stem_answer(answer: str) -> str:
    """Stems an answer with OpenFlamingo's own code, as OK-VQA's annotations are stemmed."""
    try:
        return _stemmer()["postprocess_ok_vqa_generation"](answer)
    except (OSError, ImportError, LookupError):
        raise ValueError(
            "OpenFlamingo's protocol for OK-VQA compares stems: pip install --no-deps open-flamingo nltk inflection, "
            "and python -m nltk.downloader punkt punkt_tab wordnet averaged_perceptron_tagger "
            "averaged_perceptron_tagger_eng."
        ) from None


@cache
def _stemmer() -> dict[str, Any]:
    # Run as a file: importing the package would load its models.
    found = find_spec("open_flamingo")
    (folder, *_) = (found and found.submodule_search_locations) or [""]
    return runpy.run_path(f"{folder}/eval/ok_vqa_utils.py")


class Examples:
    """Chooses the examples of each query; the choice depends only on the query, the support and the seed.

    With more shots, the first examples stay the same. Samples with the query's id or one of its images are skipped.
    Samples with an unreadable image are skipped and reported. `blind` examples are shown without their images;
    samples without a reference are dropped from the support.
    """

    def __init__(self, support: Sequence[Sample], count: int, style: str, *, seed: int = 0, blind: bool = False):
        self.support = [sample for sample in support if example_answer(sample, style) is not None]
        self.count, self.seed, self.blind = count, seed, blind
        self.problems: list[SampleProblem] = []
        if len(self.support) <= count:
            raise ValueError(
                f"{count} examples per query need a support of more than {count} samples with answers; there are "
                f"{len(self.support)}: give a larger --support, or fewer --shots."
            )
        self._keys = [frozenset(map(image_key, sample.images)) for sample in self.support]
        self._can_be_shown = cache(self._look_at)

    def choose(self, query: Sample) -> list[Sample]:
        """Returns the examples of a query, in a random order that depends on the seed and the query's id."""
        rng, keys = random.Random(f"{self.seed}/{query.id}"), frozenset(map(image_key, query.images))
        tried: set[int] = set()
        shots: list[Sample] = []
        while len(shots) < self.count:
            if len(tried) == len(self.support):
                raise ValueError(
                    f"only {len(shots)} of {self.count} examples are left after skipping the sample itself, "
                    "samples with its images, and unreadable ones"
                )
            index = rng.randrange(len(self.support))
            shot = self.support[index]
            fits = index not in tried and shot.id != query.id and keys.isdisjoint(self._keys[index])
            tried.add(index)
            if fits and self._can_be_shown(index):
                shots.append(replace(shot, images=(), marked=False) if self.blind else shot)
        return shots

    def _look_at(self, index: int) -> bool:
        """Returns whether an example's images can be read, and reports it if not."""
        sample = self.support[index]
        try:
            for image in () if self.blind else sample.images:
                open_image(image)
        except UnreadableImage as error:
            self.problems.append(SampleProblem("support", f"sample {sample.id}", str(error).rstrip(".")))
            return False
        return True
