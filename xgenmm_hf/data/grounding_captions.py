"""Captions that say where their objects are, in the three forms of BLIP3-GROUNDING.

Source: the xGen-MM (BLIP-3) report, v4, figure 4. For a football player they are

- place: football player (in the center)
- tags: <object>football player</object><bbox>[0.015, 0.005][0.845, 0.993]</bbox>
- extent: football player (starts at (0.015, 0.005) and extends up to (0.845, 0.993))
"""

import re
from collections.abc import Sequence

from xgenmm_hf.data.places import Box, corners, place


FORMS = ("place", "tags", "extent")


def grounded(name: str, box: Box, form: str) -> str:
    """Says an object and where it is.

    Args:
        name: The object as the caption has it.
        box: Its box, in fractions of the image.
        form: "place", "tags" or "extent".

    Returns:
        The phrase.

    Raises:
        ValueError: If there is no such form.
    """
    if form == "place":
        return f"{name} ({place(box)})"
    if form == "tags":
        return f"<object>{name}</object><bbox>{''.join(corners(box, 3))}</bbox>"
    if form == "extent":
        start, end = corners(box, 3, "()")
        return f"{name} (starts at {start} and extends up to {end})"
    raise ValueError(f"There is no grounding form {form!r}; use {', '.join(FORMS)}.")


def grounding_caption(caption: str, objects: Sequence[tuple[str, Box]], form: str) -> str:
    """Writes the places of objects into a caption.

    Every object is annotated where the caption first names it as a whole word, case aside; objects of one name take
    its mentions one after another. Within a longer name ("red jersey") a shorter one ("jersey") is not a mention.

    Args:
        caption: The caption.
        objects: Names with their boxes; those that the caption does not name are left out.
        form: "place", "tags" or "extent".

    Returns:
        The caption with places.

    Raises:
        ValueError: If there is no such form.
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
