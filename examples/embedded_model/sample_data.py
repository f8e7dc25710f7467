"""The drawn images and rows of examples/data, which the training scripts and notebooks beside it use.

    python -m embedded_model.sample_data examples/data

The chats are in German, which the embedded model has never seen: a few epochs teach it the words. The rated answers
are in English.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from embedded_model.drawn_images import draw_images, file_of, scene_of
from embedded_model.rows import preference_rows, write_lines
from embedded_model.world.questions import referring_traits
from embedded_model.world.scene import Item


NUM_IMAGES = 24
_COLORS = {"red": "rot", "orange": "orange", "yellow": "gelb", "green": "gr\u00fcn", "blue": "blau", "purple": "lila"}
_SHAPES = {
    "circle": ("der", "Kreis"),
    "square": ("das", "Quadrat"),
    "triangle": ("das", "Dreieck"),
    "star": ("der", "Stern"),
    "cross": ("das", "Kreuz"),
    "heart": ("das", "Herz"),
}
_WHICH = {(True, False): "das erste", (False, True): "das zweite", (True, True): "beide", (False, False): "keines"}
_MIXTURE = """\
roots:
  "": images
data:
  pairs.jsonl: all
  chats.jsonl: 8
"""


def german_chats() -> Iterator[dict[str, Any]]:
    """Yields a chat per image, in the LLaVA format: colors and presence of its shapes, and how many there are."""
    for number in range(NUM_IMAGES):
        scene, rng = scene_of(number), random.Random(f"german/{number}")
        turns = [("Wie viele Formen sind das?", str(len(scene.items)))]
        turns += [_color_question(item) for item in scene.items if ("shape",) in referring_traits(scene, item)]
        shape = rng.choice(list(_SHAPES))
        there = "ja" if any(item.shape == shape for item in scene.items) else "nein"
        turns.append((f"Ist {_SHAPES[shape][0]} {_SHAPES[shape][1]} da?", there))
        rng.shuffle(turns)
        yield {"id": f"german-{number}", "image": file_of(number), "conversations": _chat(turns, "<image>\n")}


def _color_question(item: Item) -> tuple[str, str]:
    article, name = _SHAPES[item.shape]
    return f"Welche Farbe hat {article} {name}?", _COLORS[item.color]


def german_pairs() -> Iterator[dict[str, Any]]:
    """Yields chats about two images: which of them shows a shape."""
    for number in range(16):
        images = (number, (number + 7) % NUM_IMAGES)
        shown = [{item.shape for item in scene_of(image).items} for image in images]
        turns = [
            (f"Welches Bild zeigt {article} {name}?", _WHICH[shape in shown[0], shape in shown[1]])
            for shape, (article, name) in _SHAPES.items()
        ]
        files = [file_of(image) for image in images]
        yield {"id": f"german-pair-{number}", "image": files, "conversations": _chat(turns, "<image>\n<image>\n")}


def _chat(turns: list[tuple[str, str]], opening: str) -> list[dict[str, str]]:
    chat = []
    for number, (question, answer) in enumerate(turns):
        chat.append({"from": "human", "value": (opening if number == 0 else "") + question})
        chat.append({"from": "gpt", "value": answer})
    return chat


def write_sample_data(folder: Path) -> None:
    """Draws the images and writes the three files and the mixture.

    Args:
        folder: Where to; it is made.
    """
    draw_images(folder / "images", NUM_IMAGES)
    for file in (folder / "images").glob("*.png"):
        with Image.open(file) as drawn:
            # A palette keeps the files small; no image has 64 tints that an eye could tell apart.
            drawn.convert("RGB").quantize(64).save(file, optimize=True)
    write_lines(folder / "chats.jsonl", german_chats())
    write_lines(folder / "pairs.jsonl", german_pairs())
    write_lines(folder / "answers.jsonl", preference_rows(NUM_IMAGES, NUM_IMAGES, seed=0))
    (folder / "mixture.yaml").write_text(_MIXTURE, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the folder to write into: python -m embedded_model.sample_data FOLDER")
    write_sample_data(Path(sys.argv[1]))
