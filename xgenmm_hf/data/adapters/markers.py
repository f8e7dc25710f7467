"""`<image>` markers in texts -> image parts."""

from collections.abc import Sequence

from xgenmm_hf.data.adapters.base import RejectedRecord
from xgenmm_hf.data.rows import Message, Part, image_part, text_part


MARKER = "<image>"


def split_markers(text: str) -> list[Part]:
    """Puts image parts where a text has markers.

    One line break after a marker goes with it: the chat template writes `<image>` and a line break for an image.

    Args:
        text: A text with any number of markers.

    Returns:
        Its parts in order, empty texts left out.
    """
    first, *rest = text.split(MARKER)
    parts = [text_part(first)] if first else []
    for piece in rest:
        parts.append(image_part())
        piece = piece.removeprefix("\n")
        if piece:
            parts.append(text_part(piece))
    return parts


def place_images(turns: Sequence[tuple[str, str]], num_images: int) -> list[Message]:
    """Turns (role, text) pairs into messages, with image parts at the markers of the user's turns.

    Markers in turns of the system or the assistant are plain text. Images without a marker come before the first
    text of the user.

    Args:
        turns: Roles and texts in order.
        num_images: Images of the conversation.

    Returns:
        The messages; their image parts number `num_images`.

    Raises:
        RejectedRecord: If there are more markers than images, or no turn of the user for the images.
    """
    messages: list[Message] = []
    found = 0
    for role, text in turns:
        parts = split_markers(text) if role == "user" else [text_part(text)]
        found += sum(part["type"] == "image" for part in parts)
        messages.append({"role": role, "content": parts})
    return add_missing(messages, found, num_images)


def add_missing(messages: list[Message], found: int, num_images: int) -> list[Message]:
    """Puts the images that no part stands for before the first text of the user.

    Args:
        messages: Messages with `found` image parts.
        found: Image parts there are.
        num_images: Images of the conversation.

    Returns:
        The messages.

    Raises:
        RejectedRecord: If there are more image parts than images, or no turn of the user for the images.
    """
    if found > num_images:
        raise RejectedRecord("markers", f"{found} {MARKER} marker(s) for {num_images} image(s)")
    if found == num_images:
        return messages
    for turn in messages:
        if turn["role"] == "user":
            turn["content"] = [image_part()] * (num_images - found) + turn["content"]
            return messages
    raise RejectedRecord("markers", f"{num_images} image(s), but no turn of the user")
