"""Where a box lies in its image, in words and numbers: shared by the OCR and the grounding captions.

A box is (x0, y0, x1, y1), its upper left and lower right corner as fractions of the image's width and height.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any


Box = tuple[float, float, float, float]

LARGEST_DENOMINATOR = 20
_ROWS = ("top", "", "bottom")
_COLUMNS = ("left", "", "right")
_MIDDLE = {"top": "above the center", "": "in the center", "bottom": "below the center"}
_SIDE = {"left": "to the left of the center", "right": "to the right of the center"}


def checked_box(values: Sequence[Any]) -> Box:
    """Returns four numbers as a box.

    Args:
        values: (x0, y0, x1, y1), or the two corners as pairs.

    Raises:
        ValueError: If they are no box inside the image.
    """
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
    row, column = _ROWS[_third((box[1] + box[3]) / 2)], _COLUMNS[_third((box[0] + box[2]) / 2)]
    if row and column:
        return f"at the {row} {column} corner"
    return _SIDE[column] if column else _MIDDLE[row]


def fractions(box: Box) -> tuple[Fraction, Fraction]:
    """Returns the middle of a box as (from top to bottom, from left to right), in simple fractions."""
    down, across = Fraction((box[1] + box[3]) / 2), Fraction((box[0] + box[2]) / 2)
    return down.limit_denominator(LARGEST_DENOMINATOR), across.limit_denominator(LARGEST_DENOMINATOR)


def corners(box: Box, decimals: int, brackets: str = "[]") -> tuple[str, str]:
    """Writes the two corners of a box as "[x, y]".

    Args:
        box: The box.
        decimals: Decimals of each number.
        brackets: Opening and closing bracket.

    Returns:
        The upper left and the lower right corner.
    """
    numbers = [f"{number:.{decimals}f}" for number in box]
    start, end = ", ".join(numbers[:2]), ", ".join(numbers[2:])
    return f"{brackets[0]}{start}{brackets[1]}", f"{brackets[0]}{end}{brackets[1]}"


def _third(position: float) -> int:
    """Returns which third of 0-1 a position is in."""
    return min(int(position * 3), 2)
