"""Asks the embedded model, or another checkpoint of its kind, held-out questions about drawn images.

    python -m embedded_model.measure.held_out --questions 1000

Every answer is generated, greedily, from the image and the question alone, and counts as right only if it equals
the expected one. Captions of whole images are asked for as well; they are counted apart from the questions.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedded_model.world.questions import KINDS, SHORT_KINDS, Question, questions_of_split
from embedded_model.world.render import render
from embedded_model.world.scene import HELD_OUT, Scene
from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.batches import Prompt, answer_prompts


if TYPE_CHECKING:
    from rich.table import Table

    from xgenmm_hf.inference.loading import Loaded

IMAGE_SIDE = 512
# Streams of questions up to this number were looked at during training.
DEFAULT_SEED = 2024
CAPTION = "caption"
_LONGEST_ANSWER = 112


@dataclass(frozen=True)
class Answered:
    """A question with what the model answered."""

    scene: Scene
    question: Question
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether the answer equals the expected one."""
        return self.answer == self.question.answer


def held_out_questions(
    count: int, seed: int = DEFAULT_SEED, kinds: tuple[str, ...] = SHORT_KINDS
) -> list[tuple[Scene, Question]]:
    """Returns questions about held-out scenes, one a scene, the kinds taking turns.

    Args:
        count: how many.
        seed: seed of the stream.
        kinds: the kinds of questions.
    """
    return list(islice(questions_of_split(HELD_OUT, seed, kinds), count))


def answer_questions(
    loaded: "Loaded", asked: list[tuple[Scene, Question]], batch_size: int = 25, side: int = IMAGE_SIDE
) -> Iterator[Answered]:
    """Lets a model answer questions.

    Args:
        loaded: the model and its processor.
        asked: scenes, each with its question.
        batch_size: questions answered at a time.
        side: pixels of the longer side of the images.

    Yields:
        Each question with its answer; questions of a kind follow one another, so that long answers do not hold up
        short ones.
    """
    asked = sorted(asked, key=lambda pair: pair[1].kind)
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        prompts = [Prompt(question.text, [render(scene, side)]) for scene, question in part]
        answers = answer_prompts(loaded, prompts, _LONGEST_ANSWER)
        yield from (Answered(*pair, answer) for pair, answer in zip(part, answers, strict=True))


def measure(answered: list[Answered]) -> dict[str, dict[str, float]]:
    """Counts right answers.

    Args:
        answered: questions with answers.

    Returns:
        For each kind of question, for captions and for `"overall"` (the questions, without the captions) the number of
        `questions`, of `right` answers, and the `accuracy`.
    """
    groups = {kind: [one for one in answered if one.question.kind == kind] for kind in KINDS}
    numbers = {}
    counted = [one for one in answered if one.question.kind != CAPTION]
    for name, group in {**groups, "overall": counted}.items():
        if group:
            right = sum(one.is_right for one in group)
            numbers[name] = {"questions": len(group), "right": right, "accuracy": right / len(group)}
    return numbers


def as_table(numbers: dict[str, dict[str, float]], title: str) -> "Table":
    """Returns what `measure` counted as a table for a terminal."""
    from rich.table import Table

    table = Table("question", "asked", "right", "accuracy", title=title)
    for name, row in numbers.items():
        cells = (name, f"{row['questions']:.0f}", f"{row['right']:.0f}", f"{row['accuracy']:.1%}")
        table.add_row(*cells, style="bold" if name == "overall" else None)
    return table


def main(
    model: Annotated[str, typer.Option(help="Path or Hub name of the checkpoint.")] = TINY_MODEL,
    questions: Annotated[int, typer.Option(min=1, help="How many questions to ask.")] = 1000,
    captions: Annotated[int, typer.Option(min=0, help="How many captions to ask for besides.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the held-out questions.")] = DEFAULT_SEED,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at a time.")] = 25,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
    wrong: Annotated[Path | None, typer.Option(help="Write the wrongly answered questions to this file.")] = None,
) -> None:
    """Prints how many held-out questions a checkpoint answers exactly right, by kind of question."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from rich.console import Console
    from rich.progress import track

    from xgenmm_hf.inference.loading import load

    loaded = load(model)
    asked = [*held_out_questions(questions, seed), *held_out_questions(captions, seed, (CAPTION,))]
    answers = answer_questions(loaded, asked, batch_size)
    progress = Console(stderr=True)
    answered = list(track(answers, "asking", total=len(asked), console=progress, transient=True))
    numbers = measure(answered)
    if wrong is not None:
        lines = [
            f"{one.question.kind}: {one.question.text} {one.question.answer} / {one.answer}"
            for one in answered
            if not one.is_right
        ]
        wrong.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"model": model, "seed": seed, "accuracy": numbers}, indent=2))
    else:
        Console().print(as_table(numbers, f"{questions} held-out questions, seed {seed}"))


if __name__ == "__main__":
    typer.run(main)
