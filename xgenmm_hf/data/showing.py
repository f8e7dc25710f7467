"""Rows as a person reads them: the images, the rendered prompt, and which of its characters are trained on."""

import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from xgenmm_hf.data.encoding import WRITTEN_PARTS, RenderedText, render_texts, row_name
from xgenmm_hf.data.image_refs import UnreadableImage, image_name, open_image
from xgenmm_hf.data.rows import Row


if TYPE_CHECKING:
    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


WIDTH, IMAGE_SIDE, MARGIN, FONT = 900, 260, 12, 15
COLORS = {True: "#0a7d32", False: "#555555"}


class ShownText(NamedTuple):
    """A rendered text of a row: its title where a row has several, and (text, whether it is trained on) in order."""

    title: str
    pieces: list[tuple[str, bool]]


def show_row(row: Row, processor: "XGenMMProcessor") -> list[ShownText]:
    """Renders a row and marks its targets."""
    titles = ("chosen", "rejected") if row.get("chosen") else ("",)
    return [ShownText(title, _pieces(text)) for title, text in zip(titles, render_texts(processor, row), strict=True)]


def _pieces(rendered: RenderedText) -> list[tuple[str, bool]]:
    text, spans = rendered
    if spans is None:
        never = "|".join(map(re.escape, WRITTEN_PARTS.values()))
        pieces = [(part, index % 2 == 0) for index, part in enumerate(re.split(f"({never})", text))]
    else:
        bounds = [0, *(place for span in spans for place in span), len(text)]
        pieces = [(text[start:end], index % 2 == 1) for index, (start, end) in enumerate(pairwise(bounds))]
    return [(piece, trained) for piece, trained in pieces if piece]


def image_lines(row: Row) -> Iterator[str]:
    """Yields a line for each image of a row: its name and its size, or why it cannot be read."""
    for image in row["images"]:
        try:
            opened = open_image(image)
            yield f"{image_name(image)} ({opened.width} x {opened.height})"
        except UnreadableImage as error:
            yield str(error)


def draw_row(row: Row, processor: "XGenMMProcessor", file: Path) -> None:
    """Draws a row as a PNG file: its images, then its text with the targets in green."""
    font: Any = ImageFont.load_default(FONT)
    lines: list[tuple[str, str]] = [(row_name(row), "black")]
    for shown in show_row(row, processor):
        lines += [(f"-- {shown.title}", "black")] if shown.title else []
        for text, trained in shown.pieces:
            for line in text.splitlines() or [""]:
                wrapped = textwrap.wrap(line, WIDTH // (FONT // 2), drop_whitespace=False) or [""]
                lines += [(part, COLORS[trained]) for part in wrapped]
    images = []
    for image in row["images"]:
        try:
            images.append(open_image(image))
        except UnreadableImage as error:
            lines.insert(1, (str(error), "red"))
    for opened in images:
        opened.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    per_line = max(1, (WIDTH - MARGIN) // (IMAGE_SIDE + MARGIN))
    top = MARGIN + -(-len(images) // per_line) * (IMAGE_SIDE + MARGIN)
    step = FONT + 5
    page = Image.new("RGB", (WIDTH, top + len(lines) * step + MARGIN), "white")
    for index, opened in enumerate(images):
        column, above = index % per_line, index // per_line
        page.paste(opened, (MARGIN + column * (IMAGE_SIDE + MARGIN), MARGIN + above * (IMAGE_SIDE + MARGIN)))
    draw = ImageDraw.Draw(page)
    for index, (text, color) in enumerate(lines):
        draw.text((MARGIN, top + index * step), text, fill=color, font=font)
    page.save(file, format="PNG")
