"""Drawn stand-ins for benchmarks, in the files that the two evaluation harnesses read.

    python -m embedded_model.measure.stand_ins FOLDER --count 200

VLMEvalKit's are TSV files with base64 images and the columns of POPE, MME, MMBench_DEV_EN and TextVQA_VAL; lmms-eval's
are parquet files with the columns of pope, mme, mmbench_en_dev_static and vqav2_val, and tasks that include the
harness's own with only the data replaced. Images show held-out scenes, questions are in held-out wordings.
`embedded_model.measure.harnesses` runs both.
"""

import ast
import base64
import csv
import io
import os
import random
import string
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import datasets
import typer
import yaml

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


def _pope(row: Row) -> Row:
    return {"id": row["index"], "question_id": row["index"], "image_source": f"{row['index']}.png"}


def _mme(row: Row) -> Row:
    return {"question_id": row["image_path"]}


def _mmbench(row: Row) -> Row:
    # The published rows write an empty cell as "nan".
    letters = {letter: row[letter] or "nan" for letter in "ABCD"}
    return {**letters, "hint": "nan", "L2-category": row["l2-category"], "source": "drawn", "comment": ""}


def _vqa(row: Row) -> Row:
    answer = ast.literal_eval(row["answer"])[0]
    answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": number} for number in range(1, 11)]
    return {"question_id": row["index"], "answers": answers, "multiple_choice_answer": answer}


# By the task's name: the rows, its folder and split in lmms-eval, and the columns that its functions read besides.
TASKS: dict[str, tuple[str, str, str, Callable[[Row], Row]]] = {
    "pope": ("POPE", "pope", "test", _pope),
    "mme": ("MME", "mme", "test", _mme),
    "mmbench_en_dev_static": ("MMBench_DEV_EN", "mmbench", "dev", _mmbench),
    "vqav2_val": ("TextVQA_VAL", "vqav2", "validation", _vqa),
}


def write_stand_ins(folder: Path, count: int) -> list[Path]:
    """Writes VLMEvalKit's files.

    Args:
        folder: Where to; it is made.
        count: Rows of each.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in FILES:
        rows = draw_rows(name, count)
        files.append(folder / f"{name}.tsv")
        with files[-1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    return files


def draw_rows(name: str, count: int) -> list[Row]:
    """Returns the first rows of a stand-in, a key of `FILES`."""
    return [{"index": index, **row} for index, row in enumerate(islice(FILES[name](), count))]


def write_tasks(folder: Path, count: int, tasks: Path) -> list[str]:
    """Writes lmms-eval's data and tasks.

    Args:
        folder: Where to; it is made, and is what `--include_path` takes.
        count: Rows of each.
        tasks: lmms-eval's own folder of tasks.

    Returns:
        The tasks' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, (stand_in, own, split, columns) in TASKS.items():
        rows = [{**row, **columns(row)} for row in draw_rows(stand_in, count)]
        images = [{"bytes": base64.b64decode(row["image"]), "path": None} for row in rows]
        table = datasets.Dataset.from_list([{**row, "image": None} for row in rows]).remove_columns("image")
        data = (folder / f"{name}.parquet").absolute()
        table.add_column("image", images, feature=datasets.Image()).to_parquet(data)
        names.append(f"{name}_drawn")
        included = os.path.relpath(tasks / own / f"{name}.yaml", folder)
        task = {"include": included, "task": names[-1], "dataset_path": "parquet", "dataset_name": None}
        task["dataset_kwargs"] = {"data_files": {split: str(data)}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return names


def main(
    folder: Annotated[Path, typer.Argument(help="Where to.")],
    count: Annotated[int, typer.Option(min=28, help="Rows of each file.")] = 200,
) -> None:
    """Writes POPE.tsv, MME.tsv, MMBench_DEV_EN.tsv and TextVQA_VAL.tsv."""
    for file in write_stand_ins(folder, count):
        typer.echo(file)


if __name__ == "__main__":
    typer.run(main)
