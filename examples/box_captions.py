"""Write the captions of BLIP3-OCR and BLIP3-GROUNDING for images of your own: what stands where in an image.

python examples/box_captions.py boxes.jsonl captions.jsonl --granularity 6
python examples/box_captions.py          # two images as an example, printed

A line of boxes.jsonl holds an image and either texts (what an OCR engine read) or a caption and its objects:

    {"image": "1.jpg", "texts": [{"text": "MACK SHOP", "bbox": [0.192, 0.037, 0.817, 0.203]}]}
    {"image": "1.jpg", "caption": "A bus in the rain.", "objects": [{"name": "bus", "bbox": [0.6, 0.4, 0.9, 0.6]}]}

What it writes is a source of pre-training rows in the format `captions`. The published sets need no script.

A box is (x0, y0, x1, y1), its upper left and lower right corner as fractions of the image's width and height.
Source: the xGen-MM (BLIP-3) report, v4, figure 4. For a box with the text MACK SHOP the six OCR captions are

1. "MACK SHOP"
2. "MACK SHOP" located above the center
3. "MACK SHOP" located at 2/17 of the image from top to bottom and 1/2 of the image from left to right
4. "MACK SHOP" approximately starts at [0.2, 0.0] and extends up to [0.8, 0.2]
5. "MACK SHOP" starts at [0.192, 0.037] and extends up to [0.817, 0.203]
6. <ocr>MACK SHOP</ocr><bbox>[0.192, 0.037][0.817, 0.203]</bbox>

(the published set puts fillers such as "the text" before each quotation; pre-training drops them), and those of an
object

- place: football player (in the center)
- tags: <object>football player</object><bbox>[0.015, 0.005][0.845, 0.993]</bbox>
- extent: football player (starts at (0.015, 0.005) and extends up to (0.845, 0.993))
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any


Box = tuple[float, float, float, float]

GRANULARITIES = range(1, 7)
FORMS = ("place", "tags", "extent")
LARGEST_DENOMINATOR = 20
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
_MIDDLE = {"top": "above the center", "": "in the center", "bottom": "below the center"}
_SIDE = {"left": "to the left of the center", "right": "to the right of the center"}


def checked_box(values: Sequence[Any]) -> Box:
    """Returns (x0, y0, x1, y1), or two corners as pairs, as a box; raises ValueError if it is not inside the image."""
    flat = [number for value in values for number in (value if isinstance(value, (list, tuple)) else [value])]
    numbers = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in flat)
    if len(flat) != 4 or not numbers:
        raise ValueError(f"A box is four numbers x0, y0, x1, y1; got {values!r:.80}.")
    x0, y0, x1, y1 = (float(number) for number in flat)
    if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1):
        raise ValueError(f"A box is x0 <= x1, y0 <= y1 in fractions (0-1) of the image; got {values!r:.80}.")
    return x0, y0, x1, y1


def place(box: Box) -> str:
    """Returns the ninth of the image in which the middle of a box lies, such as "at the top left corner"."""
    row, column = (
        names[min(int((low + high) / 2 * 3), 2)]
        for names, low, high in ((_ROWS, box[1], box[3]), (_COLUMNS, box[0], box[2]))
    )
    if row and column:
        return f"at the {row} {column} corner"
    return _SIDE[column] if column else _MIDDLE[row]


def ocr_phrase(text: str, box: Box, granularity: int) -> str:
    """Says one text of an image and where it stands; raises ValueError for a granularity outside 1 to 6."""
    if granularity not in GRANULARITIES:
        raise ValueError(f"There is no OCR granularity {granularity!r}; use 1 to 6.")
    if granularity == 6:
        return f"<ocr>{text}</ocr><bbox>{''.join(_corners(box, 3))}</bbox>"
    if granularity == 2:
        return f'"{text}" located {place(box)}'
    if granularity == 3:
        middle = [Fraction((box[low] + box[low + 2]) / 2).limit_denominator(LARGEST_DENOMINATOR) for low in (1, 0)]
        down, across = (f"{part} of the image from" for part in middle)
        return f'"{text}" located at {down} top to bottom and {across} left to right'
    if granularity in (4, 5):
        start, end = _corners(box, 1 if granularity == 4 else 3)
        return f'"{text}" {"approximately " if granularity == 4 else ""}starts at {start} and extends up to {end}'
    return f'"{text}"'


def ocr_caption(texts: Iterable[tuple[str, Box]], granularity: int = 1, fillers: bool = False) -> str:
    """Says all texts of an image in one caption."""
    phrases = [ocr_phrase(text, box, granularity) for text, box in texts]
    if not phrases or not fillers:
        return ", ".join(phrases)
    return "The image contains " + ", ".join(f"the text {phrase}" for phrase in phrases)


def grounded(name: str, box: Box, form: str) -> str:
    """Says an object, as the caption has it, and where it is; raises ValueError for an unknown form."""
    if form == "place":
        return f"{name} ({place(box)})"
    if form == "tags":
        return f"<object>{name}</object><bbox>{''.join(_corners(box, 3))}</bbox>"
    if form == "extent":
        start, end = _corners(box, 3, "()")
        return f"{name} (starts at {start} and extends up to {end})"
    raise ValueError(f"There is no grounding form {form!r}; use {', '.join(FORMS)}.")


def grounding_caption(caption: str, objects: Sequence[tuple[str, Box]], form: str) -> str:
    """Writes the places of objects into a caption.

    Every object is annotated where the caption first names it as a whole word, case aside; objects of one name take
    its mentions one after another. Within a longer name ("red jersey") a shorter one ("jersey") is not a mention.
    """
    if form not in FORMS:
        raise ValueError(f"There is no grounding form {form!r}; use {', '.join(FORMS)}.")
    waiting: dict[str, list[Box]] = {}
    for name, box in objects:
        if name.strip():
            waiting.setdefault(name.strip().lower(), []).append(box)
    if not waiting:
        return caption
    longest_first = sorted(waiting, key=lambda name: (-len(name), name))
    mention = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)

    def annotate(match: re.Match) -> str:
        boxes = waiting.get(match[0].lower())
        return grounded(match[0], boxes.pop(0), form) if boxes else match[0]

    return mention.sub(annotate, caption)


def _corners(box: Box, decimals: int, brackets: str = "[]") -> tuple[str, str]:
    """Writes the two corners of a box as "[x, y]"."""
    numbers = [f"{number:.{decimals}f}" for number in box]
    return tuple(f"{brackets[0]}{', '.join(pair)}{brackets[1]}" for pair in (numbers[:2], numbers[2:]))  # type: ignore[return-value]


def caption_of(record: Mapping[str, Any], granularity: int, form: str) -> str:
    """Writes the caption of one line of boxes."""
    name, items = ("text", record["texts"]) if "texts" in record else ("name", record["objects"])
    boxes = [(item[name], checked_box(item["bbox"])) for item in items]
    return ocr_caption(boxes, granularity) if name == "text" else grounding_caption(record["caption"], boxes, form)


EXAMPLES = (
    {"image": "1.jpg", "texts": [{"text": "MACK SHOP", "bbox": [0.192, 0.037, 0.817, 0.203]}]},
    {"image": "2.jpg", "caption": "A bus in the rain.", "objects": [{"name": "bus", "bbox": [0.6, 0.4, 0.9, 0.6]}]},
)


def main() -> None:
    """Reads the arguments, and writes or prints the captions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boxes", type=Path, nargs="?", help="JSON lines as above; default: two examples")
    parser.add_argument("captions", type=Path, nargs="?", help="file to write; default: standard output")
    parser.add_argument("--granularity", type=int, choices=GRANULARITIES, default=1, help="1 to 6 as above")
    parser.add_argument("--form", choices=FORMS, default=FORMS[0], help="how places of objects are said")
    args = parser.parse_args()
    records = map(json.loads, args.boxes.read_text(encoding="utf-8").splitlines()) if args.boxes else EXAMPLES
    lines = []
    for record in records:
        caption = caption_of(record, args.granularity, args.form)
        lines.append(json.dumps({"image": record["image"], "caption": caption}, ensure_ascii=False))
    if args.captions:
        args.captions.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
