"""What the recipe proof measures after each stage, on held-out images that no stage trained on."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING

from embedded_model.measure.probing import probing_shares
from embedded_model.measure.tasks import scenes
from embedded_model.world.pairs import pair_questions_of_split
from embedded_model.world.questions import NO, SHORT_KINDS, YES, ask_several, questions_of_split
from embedded_model.world.render import render
from embedded_model.world.requests import DISALLOWED_VERBS, HARMLESS_VERBS, ask_request
from embedded_model.world.scene import HELD_OUT, disallow
from xgenmm_hf.evaluation.metrics.choices import read_yes_no
from xgenmm_hf.evaluation.metrics.safety import is_refusal
from xgenmm_hf.inference.batches import Prompt, answer_prompts


if TYPE_CHECKING:
    from xgenmm_hf.inference.loading import Loaded


IMAGE_SIDE = 384
# Other streams of questions were looked at during training.
SEED = 4096
_BATCH = 25
_LONGEST_ANSWER = 24


@dataclass(frozen=True)
class Measured:
    """Results after a stage, all as shares from 0 to 1.

    Args:
        single: right answers to questions about one image.
        pairs: right answers to questions about two images.
        probing_accuracy: right answers to "is there a ...?", half of which call for "yes".
        precision: shown things among those said to be there.
        recall: things said to be there among those shown.
        f1: harmonic mean of the two.
        yes_ratio: answers "yes" among all.
        hallucinated: answers "yes" where the thing is not there.
        attack_success: disallowed images and requests that are not refused.
        over_refusal: harmless look-alikes that are refused.
    """

    single: float
    pairs: float
    probing_accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    hallucinated: float
    attack_success: float
    over_refusal: float


def measure(loaded: "Loaded", count: int = 400) -> Measured:
    """Measures a checkpoint.

    Args:
        loaded: the model and its processor.
        count: questions of each of the five sets.

    Returns:
        The shares.
    """

    def answer(stream: Iterator[tuple[Prompt, str]]) -> list[tuple[str, str]]:
        prompts = list(islice(stream, count))
        answers = answer_all(loaded, [prompt for prompt, _ in prompts])
        return [(answer, truth) for answer, (_, truth) in zip(answers, prompts, strict=True)]

    def share_right(stream: Iterator[tuple[Prompt, str]]) -> float:
        return sum(answer == truth for answer, truth in answer(stream)) / count

    def share_refused(stream: Iterator[tuple[Prompt, str]]) -> float:
        return sum(is_refusal(answer) for answer, _ in answer(stream)) / count

    probes = answer(probing_prompts())
    probing = probing_shares(
        [truth == YES for _, truth in probes], [read_yes_no(answer) != NO for answer, _ in probes]
    )
    return Measured(
        single=share_right(single_prompts()),
        pairs=share_right(pair_prompts()),
        probing_accuracy=probing.pop("accuracy"),
        **probing,
        attack_success=1 - share_refused(attack_prompts()),
        over_refusal=share_refused(look_alike_prompts()),
    )


def answer_all(loaded: "Loaded", prompts: list[Prompt]) -> list[str]:
    """Answers prompts in batches."""
    starts = range(0, len(prompts), _BATCH)
    return [
        answer
        for start in starts
        for answer in answer_prompts(loaded, prompts[start : start + _BATCH], _LONGEST_ANSWER)
    ]


def single_prompts() -> Iterator[tuple[Prompt, str]]:
    """Yields questions about one image with their answers, the kinds taking turns."""
    for scene, question in questions_of_split(HELD_OUT, SEED, SHORT_KINDS):
        yield Prompt(question.text, [render(scene, IMAGE_SIDE)]), question.answer


def pair_prompts() -> Iterator[tuple[Prompt, str]]:
    """Yields questions about two images with their answers, the kinds taking turns."""
    for pair, question in pair_questions_of_split(HELD_OUT, SEED):
        yield Prompt(question.text, [render(scene, IMAGE_SIDE) for scene in pair]), question.answer


def probing_prompts() -> Iterator[tuple[Prompt, str]]:
    """Yields "is there a ...?" questions; "yes" and "no" take turns."""
    wanted = YES
    for scene, question in questions_of_split(HELD_OUT, SEED + 1, ("presence",)):
        if question.answer == wanted:
            wanted = NO if wanted == YES else YES
            yield Prompt(question.text, [render(scene, IMAGE_SIDE)]), question.answer


def attack_prompts() -> Iterator[tuple[Prompt, str]]:
    """Yields, in turns, questions about disallowed images and disallowed requests about allowed ones."""
    for scene, rng in scenes(SEED + 2, label="scene"):
        if rng.random() < 0.5:
            marked = disallow(scene, rng)
            question = ask_several(marked, 1, rng, SHORT_KINDS)[0] if marked else None
            scene = marked or scene
        else:
            question = ask_request(scene, rng, DISALLOWED_VERBS)
        if question is not None:
            yield Prompt(question.text, [render(scene, IMAGE_SIDE)]), ""


def look_alike_prompts() -> Iterator[tuple[Prompt, str]]:
    """Yields harmless requests and questions about images with harmless words."""
    for scene, rng in scenes(SEED + 3, label="scene"):
        if rng.random() < 0.5:
            question = ask_several(scene, 1, rng, SHORT_KINDS)[0] if scene.word else None
        else:
            question = ask_request(scene, rng, HARMLESS_VERBS)
        if question is not None:
            yield Prompt(question.text, [render(scene, IMAGE_SIDE)]), ""


def as_row(measured: Measured) -> dict[str, float]:
    """Returns the shares by name, rounded to a tenth of a percent."""
    return {name: round(value, 3) for name, value in asdict(measured).items()}
