"""Captions that say which text stands where in an image, in the six granularities of BLIP3-OCR.

Source: the xGen-MM (BLIP-3) report, v4, figure 4. For a box with the text MACK SHOP they are

1. "MACK SHOP"
2. "MACK SHOP" located above the center
3. "MACK SHOP" located at 2/17 of the image from top to bottom and 1/2 of the image from left to right
4. "MACK SHOP" approximately starts at [0.2, 0.0] and extends up to [0.8, 0.2]
5. "MACK SHOP" starts at [0.192, 0.037] and extends up to [0.817, 0.203]
6. <ocr>MACK SHOP</ocr><bbox>[0.192, 0.037][0.817, 0.203]</bbox>

The data set itself puts fillers such as "the text" before each quotation; pre-training drops them.
"""

import re
from collections.abc import Iterable

from xgenmm_hf.data.places import Box, corners, fractions, place


GRANULARITIES = range(1, 7)
# Quotations are matched first, so that what they hold is never taken for a filler.
FILLERS = re.compile(
    r"""(?P<quoted>"[^"]*"|<ocr>.*?</ocr>)"""
    r"""|^\s*(?:the|this)\s+image\s+(?:contains|shows)\s+(?=the\s+text\s|text\s|"|<ocr>)"""
    r"""|\b(?:the\s+)?text\s+(?="|<ocr>)""",
    re.IGNORECASE | re.DOTALL,
)


def ocr_phrase(text: str, box: Box, granularity: int) -> str:
    """Says one text of an image and where it stands.

    Args:
        text: The text.
        box: Where it stands, in fractions of the image.
        granularity: 1 (the text alone) to 6 (tags and three decimals).

    Returns:
        The phrase.

    Raises:
        ValueError: If there is no such granularity.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"There is no OCR granularity {granularity!r}; use 1 to 6.")
    if granularity == 6:
        return f"<ocr>{text}</ocr><bbox>{''.join(corners(box, 3))}</bbox>"
    quoted = f'"{text}"'
    if granularity == 2:
        return f"{quoted} located {place(box)}"
    if granularity == 3:
        down, across = fractions(box)
        return (
            f"{quoted} located at {down} of the image from top to bottom and {across} of the image from left to right"
        )
    if granularity == 4:
        start, end = corners(box, 1)
        return f"{quoted} approximately starts at {start} and extends up to {end}"
    if granularity == 5:
        start, end = corners(box, 3)
        return f"{quoted} starts at {start} and extends up to {end}"
    return quoted


def ocr_caption(texts: Iterable[tuple[str, Box]], granularity: int = 1, fillers: bool = False) -> str:
    """Says all texts of an image in one caption.

    Args:
        texts: Texts with their boxes, in reading order.
        granularity: 1 to 6; pre-training uses 1, the texts without boxes.
        fillers: Whether to write them as the data set has them: `The image contains the text "A", the text "B"`.

    Returns:
        The caption, empty without texts.
    """
    phrases = [ocr_phrase(text, box, granularity) for text, box in texts]
    if not phrases or not fillers:
        return ", ".join(phrases)
    return "The image contains " + ", ".join(f"the text {phrase}" for phrase in phrases)


def drop_fillers(caption: str) -> str:
    """Removes the fillers of a caption and leaves the quoted texts and their places.

    Source: the xGen-MM report: OCR captions lose filler phrases like "the text" in the data loader.

    Args:
        caption: A caption of the data set.

    Returns:
        The caption without its opening and without "the text" before quotations; what is quoted stays as it is.
    """
    return FILLERS.sub(lambda match: match["quoted"] or "", caption).strip()
