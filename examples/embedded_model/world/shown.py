"""The images that ship with the package: held-out scenes, picked by seed, each with a question and its answer.

    python -m embedded_model.world.shown OUTPUT_FOLDER

draws them again, and writes images.json beside them.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from embedded_model.world.language import caption
from embedded_model.world.render import render
from embedded_model.world.scene import HELD_OUT, Scene, make_scene


IMAGE_SIDE = 640


@dataclass(frozen=True)
class Example:
    """A shipped image: its file, the seed and layout of its scene, and a question with its answer."""

    image: str
    seed: int
    layout: str
    with_word: bool
    question: str
    answer: str

    @property
    def scene(self) -> Scene:
        """What the image shows."""
        return make_scene(self.seed, HELD_OUT, self.layout, self.with_word)


EXAMPLES = (
    Example("1-shapes.png", 62, "square", False, "What color is the star?", "orange"),
    Example("2-cafe.png", 59, "wide", True, "Which word do you see?", "CAFE"),
    Example("3-banner.png", 78, "banner", False, "How many shapes are there?", "3"),
    Example("4-tall.png", 138, "tall", False, "Where is the heart?", "left"),
    Example("5-stop.png", 20, "square", True, "Is there a red circle?", "no"),
)


def draw_examples(folder: str | Path) -> None:
    """Draws the images and writes images.json, a list of what `Example` holds and each image's caption.

    Args:
        folder: an existing folder.
    """
    folder = Path(folder)
    rows = []
    for example in EXAMPLES:
        # A palette keeps the files small; no image has 64 tints that an eye could tell apart.
        render(example.scene, IMAGE_SIDE).quantize(64).save(folder / example.image, optimize=True)
        rows.append({**asdict(example), "caption": caption(example.scene)})
    (folder / "images.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("Give one existing folder to draw into: python -m embedded_model.world.shown FOLDER")
    draw_examples(sys.argv[1])
