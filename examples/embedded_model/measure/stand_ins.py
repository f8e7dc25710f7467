"""Drawn stand-ins for benchmarks, in the files that VLMEvalKit reads: TSV with base64 images.

    python -m embedded_model.measure.stand_ins LMUData --count 200

VLMEvalKit reads them from the folder that the variable LMUData names. A file whose digest is not that of the real data
set is downloaded again, unless the entry of its class in `DATASET_MD5` is emptied. The columns are those of POPE, MME,
MMBench_DEV_EN and TextVQA_VAL. Images show held-out scenes, questions are in held-out wordings.
"""

import base64
import csv
import io
import random
import string
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from embedded_model.measure.held_out import IMAGE_SIDE
from embedded_model.world.forms import YES_OR_NO, draw_options
from embedded_model.world.questions import SHORT_KINDS, YES, ask, questions_of_split
from embedded_model.world.render import render
from embedded_model.world.scene import HELD_OUT, Scene, make_scene


SEED = 8192
# Categories of MME that drawn images can stand in for, with the kind of question; its score needs all fourteen.
_MME_KINDS = {"existence": "presence", "count": "check", "position": "relation", "color": "check", "OCR": "check"}
_MME_OTHERS = (
    *("artwork", "celebrity", "landmark", "posters", "scene"),
    *("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation"),
)
Row = dict[str, Any]


def encode(scene: Scene) -> str:
    """Draws a scene as a PNG in base64."""
    drawn = io.BytesIO()
    render(scene, IMAGE_SIDE).save(drawn, format="PNG")
    return base64.b64encode(drawn.getvalue()).decode()


def pope_rows() -> Iterator[Row]:
    """Yields "is there a ...?", half of them answered with yes."""
    for index, (scene, question) in enumerate(questions_of_split(HELD_OUT, SEED, ("presence",), HELD_OUT)):
        category = ("random", "popular", "adversarial")[index % 3]
        yield {"image": encode(scene), **_yes_no(question.text, question.answer), "category": category}


def mme_rows() -> Iterator[Row]:
    """Yields two yes/no questions per image, one of each answer, the categories taking turns."""
    categories = (*_MME_KINDS, *_MME_OTHERS)
    found = 0
    for number in range(1 << 30):
        category = categories[found % len(categories)]
        scene, rng = make_scene((SEED << 32) + number, HELD_OUT), random.Random(f"mme/{number}")
        asked = [ask(scene, _MME_KINDS.get(category, "presence"), rng, HELD_OUT) for _ in range(12)]
        pair = {question.answer: question for question in asked if question and question.answer in ("yes", "no")}
        if len(pair) == 2:
            shown = {"image": encode(scene), "category": category, "image_path": f"{category}/{found:06}.png"}
            yield from ({**shown, **_yes_no(question.text, answer)} for answer, question in sorted(pair.items()))
            found += 1


def _yes_no(text: str, answer: str) -> Row:
    return {"question": f"{text}{YES_OR_NO}", "answer": "Yes" if answer == YES else "No"}


def mmbench_rows() -> Iterator[Row]:
    """Yields lettered questions; a question with two options leaves the columns C and D empty."""
    for index, (scene, question) in enumerate(questions_of_split(HELD_OUT, SEED + 1, SHORT_KINDS, HELD_OUT)):
        options = draw_options(question, random.Random(f"mmbench/{index}"))
        if options is not None:
            letters = dict(zip(string.ascii_uppercase, [*options, "", "", ""][:4], strict=False))
            answer = string.ascii_uppercase[options.index(question.answer)]
            row = {"image": encode(scene), "question": question.text, "hint": "", **letters, "answer": answer}
            yield {**row, "category": question.kind, "l2-category": "perception", "split": "dev"}


def vqa_rows() -> Iterator[Row]:
    """Yields questions with short answers."""
    for scene, question in questions_of_split(HELD_OUT, SEED + 2, SHORT_KINDS, HELD_OUT):
        answers = str([question.answer] * 10)
        yield {"image": encode(scene), "question": question.text, "answer": answers, "split": "val"}


FILES: dict[str, Callable[[], Iterator[Row]]] = {
    "POPE": pope_rows,
    "MME": mme_rows,
    "MMBench_DEV_EN": mmbench_rows,
    "TextVQA_VAL": vqa_rows,
}


def write_stand_ins(folder: Path, count: int) -> list[Path]:
    """Writes all files.

    Args:
        folder: Where to; it is made.
        count: Rows of each.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, make_rows in FILES.items():
        rows = [{"index": index, **row} for index, row in enumerate(islice(make_rows(), count))]
        files.append(folder / f"{name}.tsv")
        with files[-1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    return files


def main(
    folder: Annotated[Path, typer.Argument(help="Where to.")],
    count: Annotated[int, typer.Option(min=28, help="Rows of each file.")] = 200,
) -> None:
    """Writes POPE.tsv, MME.tsv, MMBench_DEV_EN.tsv and TextVQA_VAL.tsv."""
    for file in write_stand_ins(folder, count):
        typer.echo(file)


if __name__ == "__main__":
    typer.run(main)
