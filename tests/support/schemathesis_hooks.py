"""What schemathesis cannot invent: the model's name and images that can be read, put where strings stand for them."""

from base64 import b64encode
from io import BytesIO
from typing import Any

import schemathesis
from PIL import Image


NAME = "tiny"
# without the helpers of the other tests, which import torch and Transformers
Image.new("RGB", (1, 1)).save(png := BytesIO(), "PNG")
PIXEL = "data:image/png;base64," + b64encode(png.getvalue()).decode()


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Names the model and shows a pixel, in every second request, by its length."""
    if not isinstance(body, dict) or len(str(body)) % 2:
        return body
    body = {**body, "model": NAME} if isinstance(body.get("model"), str) else body
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else []:
            image = part.get("image_url") if isinstance(part, dict) else None
            if isinstance(image, dict) and isinstance(image.get("url"), str):
                image["url"] = PIXEL
                message["role"] = "user"
    return body
