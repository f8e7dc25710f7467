"""From a question to a prompt: chats of instruct models, and the running text that base models continue.

The processor decides the form: an instruct checkpoint has a chat template, which also says what the system turn is; a
base checkpoint has none.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.modeling.chat_xgenmm import (
    END_OF_CHUNK_TOKEN,
    IMAGE_TOKEN,
    RELEASED_SYSTEM,
    content_as_items,
    escape_messages,
    escape_special_tokens,
)
from xgenmm_hf.modeling.images_xgenmm import read_image


if TYPE_CHECKING:
    from PIL import Image

    from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor


def system_turn(name: str | None) -> str | None:
    """Returns the text of the system turn that a command line names."""
    return None if name is None else {"none": "", "released": RELEASED_SYSTEM}.get(name, name)


def build_messages(images: Sequence[Any], prompt: str, system: str | None = None) -> list[dict[str, Any]]:
    """Builds the chat for one question about images, which come before the text as in the released models' tuning."""
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": prompt})
    messages = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    return [*messages, {"role": "user", "content": content}]


def is_base(processor: "XGenMMProcessor") -> bool:
    """Tells whether a processor belongs to a base model: one without a chat template."""
    return processor.chat_template is None


def render_prompt(processor: "XGenMMProcessor", messages: Sequence[Mapping[str, Any]]) -> str:
    """Renders a chat up to where the answer begins, in the form that its model was trained on."""
    if not is_base(processor):
        return str(processor.apply_chat_template(list(messages), add_generation_prompt=True))
    text = ""
    for message in escape_messages(content_as_items(list(messages)), processor.tokenizer):
        written = [IMAGE_TOKEN if item["type"] == "image" else item["text"] for item in message["content"]]
        if message["role"] == "system" and any(written):
            raise ValueError("This is a base model, which knows no system turn: leave it out (--system none).")
        if message["role"] == "assistant":
            written = [" ", *written, END_OF_CHUNK_TOKEN]
        text += "".join(written)
    return text


def render_shots(texts: Sequence[str], query: str, tokenizer: Any, num_images: int = 1) -> str:
    """Writes examples and a query in the base models' form: `<image>`, the text, `<|endofchunk|>`, and so on."""
    parts = [f"{IMAGE_TOKEN}{escape_special_tokens(text, tokenizer)}{END_OF_CHUNK_TOKEN}" for text in texts]
    return "".join(parts) + IMAGE_TOKEN * num_images + escape_special_tokens(query, tokenizer)


def read_shots(path: str | os.PathLike[str]) -> "list[tuple[Image.Image, str]]":
    """Reads examples from a file."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        whole = text.lstrip().startswith("[")
        rows = json.loads(text) if whole else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"The examples in {path} cannot be read ({error}).") from error
    shots = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(row.get(name), str) for name in ("image", "text")):
            raise ValueError(f'Example {index} in {path} is no {{"image": PATH, "text": TEXT}}.')
        shots.append((read_image(file.parent / row["image"]), row["text"]))
    return shots


def trim_continuation(text: str, query: str) -> str:
    """Cuts the text that a base model wrote after its answer: a further example, begun without an end token."""
    mark = re.match(r"\s*(\w[\w ]{0,30}:)", query)
    return (text if mark is None else text.split(mark[1])[0]).strip()
