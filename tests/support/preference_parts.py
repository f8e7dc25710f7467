"""Images and messages of preference rows, in the form that the adapters give them."""

import io

from PIL import Image


def png(width: int, height: int, color: str) -> dict:
    data = io.BytesIO()
    Image.new("RGB", (width, height), color).save(data, "png")
    return {"bytes": data.getvalue(), "path": None}


def turn(role: str, *parts: str | None) -> dict:
    """A message of parts; None stands for an image."""
    items = [{"type": "image" if part is None else "text", "text": part} for part in parts]
    return {"role": role, "content": items}
