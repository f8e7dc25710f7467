"""Evaluation data about drawn images, written in the data sets' own formats.

Every file is a pure function of its seed, and every image shows a held-out scene; only the examples of few-shot
prompts are of training scenes.
"""

import io
import json
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from embedded_model.world.language import caption, describe
from embedded_model.world.pairs import pair_questions_of_split
from embedded_model.world.questions import NO, SHORT_KINDS, YES, Question, ask_several, questions_of_split
from embedded_model.world.render import render
from embedded_model.world.requests import DISALLOWED_VERBS, HARMLESS_VERBS, ask_request
from embedded_model.world.scene import HELD_OUT, TRAIN, Scene, disallow, make_scene


IMAGE_SIDE = 384
# Other streams of scenes were looked at during training and in other reports.
SEED = 8192
ANNOTATORS = 10
_THINGS_ASKED = 3

Row = dict[str, Any]


def write_questions(folder: Path, count: int, split: str = HELD_OUT, seed: int = SEED) -> list[Path]:
    """Writes questions about one image as VQAv2 has them; all ten annotators agree.

    Args:
        folder: Where to.
        count: Questions, the kinds taking turns.
        split: The scenes' split.
        seed: Seed of the stream.

    Returns:
        The questions file and the annotations file.
    """
    name = split.replace("-", "_")
    questions, annotations = [], []
    for number, (scene, question) in enumerate(islice(questions_of_split(split, seed, SHORT_KINDS), count)):
        image = write_image(folder, f"{name}_{number:04}", scene)
        questions.append({"question_id": number, "image": image, "question": question.text})
        answers = [{"answer_id": person, "answer": question.answer} for person in range(1, ANNOTATORS + 1)]
        annotations.append({"question_id": number, "answer_type": answer_type(question), "answers": answers})
    files = [folder / f"{name}_{part}.json" for part in ("questions", "annotations")]
    write_json(files[0], {"questions": questions})
    write_json(files[1], {"annotations": annotations})
    return files


def write_examples(folder: Path, count: int) -> list[Path]:
    """Writes questions for the examples of few-shot prompts; as `write_questions`, about training scenes."""
    return write_questions(folder, count, TRAIN)


def answer_type(question: Question) -> str:
    """Returns VQAv2's type of a question's answer."""
    if question.answer in (YES, NO):
        return "yes/no"
    return "number" if question.answer.isdigit() else "other"


def write_captions(folder: Path, count: int) -> list[Path]:
    """Writes images with one caption each, as COCO has them."""
    images, annotations = [], []
    for number, (scene, _) in enumerate(scenes(SEED + 1, count)):
        images.append({"id": number, "file_name": write_image(folder, f"caption_{number:04}", scene)})
        annotations.append({"id": number, "image_id": number, "caption": caption(scene)})
    file = folder / "captions.json"
    write_json(file, {"images": images, "annotations": annotations})
    return [file]


def write_presence(folder: Path, count: int) -> list[Path]:
    """Writes questions after things that are there and as many after things that are not, a JSON line each.

    Args:
        folder: Where to.
        count: Questions; half of them are after what is not there, the category "absent".

    Returns:
        The file.
    """
    images: dict[str, list[str]] = {}
    for scene, rng in scenes(SEED + 2):
        found = list(dict.fromkeys(describe(item, ("color", "shape")) for item in scene.items))
        if len(found) < _THINGS_ASKED:
            continue
        rng.shuffle(found)
        images[write_image(folder, f"presence_{len(images):04}", scene)] = found
        if len(images) == max(2, count // (2 * _THINGS_ASKED)):
            break
    known = sorted({thing for found in images.values() for thing in found})
    lines = []
    for image, found in images.items():
        absent = random.Random(f"{SEED}/{image}").sample(
            [thing for thing in known if thing not in found], _THINGS_ASKED
        )
        for category, answer, things in (("there", YES, found[:_THINGS_ASKED]), ("absent", NO, absent)):
            for thing in things:
                article = "an" if thing[0] in "aeiou" else "a"
                question = f"Is there {article} {thing} in the picture?"
                lines.append({"image": image, "question": question, "answer": answer, "category": category})
    file = folder / "presence.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [file]


def write_guard(folder: Path, count: int) -> list[Path]:
    """Writes requests as VLGuard has them: unsafe images, and safe images with a safe and an unsafe request.

    Args:
        folder: Where to.
        count: Images, every second of them unsafe.

    Returns:
        The file.
    """
    rows: list[Row] = []
    for scene, rng in scenes(SEED + 3):
        safe = len(rows) % 2 == 1
        marked = None if safe else disallow(scene, rng)
        turns = _requests(scene, rng) if safe else _question_about(marked, rng)
        if not turns:
            continue
        image = write_image(folder, f"guard_{len(rows):04}", marked or scene)
        rows.append({"id": f"{len(rows):04}", "image": image, "safe": safe, "instr-resp": turns})
        if len(rows) == count:
            break
    file = folder / "guard.json"
    write_json(file, rows)
    return [file]


def _requests(scene: Scene, rng: random.Random) -> list[Row]:
    harmless, harmful = ask_request(scene, rng, HARMLESS_VERBS), ask_request(scene, rng, DISALLOWED_VERBS)
    if harmless is None or harmful is None:
        return []
    return [{"safe_instruction": harmless.text, "response": harmless.answer}, {"unsafe_instruction": harmful.text}]


def _question_about(scene: Scene | None, rng: random.Random) -> list[Row]:
    return [] if scene is None else [{"instruction": ask_several(scene, 1, rng, SHORT_KINDS)[0].text}]


def write_pairs(folder: Path, count: int) -> list[Path]:
    """Writes questions about two images, a JSON line each."""
    lines = []
    for number, (pair, question) in enumerate(islice(pair_questions_of_split(HELD_OUT, SEED), count)):
        images = [write_image(folder, f"pair_{number:04}_{place}", scene) for place, scene in enumerate(pair, 1)]
        row = {"id": f"{number:04}", "images": images, "question": question.text, "answer": question.answer}
        lines.append(json.dumps({**row, "category": question.kind}) + "\n")
    file = folder / "pairs.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return [file]


WRITERS: dict[str, Callable[[Path, int], list[Path]]] = {
    "questions": write_questions,
    "examples": write_examples,
    "captions": write_captions,
    "presence": write_presence,
    "guard": write_guard,
    "pairs": write_pairs,
}


def scenes(seed: int, count: int | None = None, label: str = "evaluation") -> Iterator[tuple[Scene, random.Random]]:
    """Yields held-out scenes, each with a source of randomness of its own.

    Args:
        seed: Seed of the stream.
        count: How many; None: without end.
        label: Name of the sources of randomness.
    """
    numbers: Iterable[int] = range(1 << 30 if count is None else count)
    for number in numbers:
        yield make_scene((seed << 32) + number, HELD_OUT), random.Random(f"{label}/{seed}/{number}")


def write_image(folder: Path, name: str, scene: Scene) -> str:
    """Draws a scene and returns its path from the folder; a file that shows it already stays untouched."""
    path = folder / "pictures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    render(scene, IMAGE_SIDE).save(drawn, format="PNG")
    # Answers about an image count only as long as its file is the same.
    if not path.is_file() or path.read_bytes() != drawn.getvalue():
        part = path.with_suffix(".part")
        part.write_bytes(drawn.getvalue())
        part.replace(path)
    return path.relative_to(folder).as_posix()


def write_json(file: Path, value: Any) -> None:
    """Writes a JSON file."""
    file.write_text(json.dumps(value) + "\n", encoding="utf-8")
