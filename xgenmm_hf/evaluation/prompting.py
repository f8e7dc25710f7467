"""Samples -> prompts with their images and lengths.

Two forms: "chat" is the instruct models' (the released system turn, the images, the text), "base" that of the base
models, with or without examples (see `few_shot`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xgenmm_hf.data.image_refs import image_size
from xgenmm_hf.evaluation.few_shot import base_content
from xgenmm_hf.evaluation.image_keys import image_key
from xgenmm_hf.evaluation.samples import Sample


FORMS = ("chat", "base")
# What the harnesses of the field put behind a question that a short answer is wanted for.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
CHAT_SUFFIXES = {"vqa": SHORT_ANSWER}
CHAT_TEXTS = {"caption": "Describe the image in one short sentence."}
ANSWER_TOKENS = {"vqa": 32, "caption": 64}
DEFAULT_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class Asked:
    """A sample as it is put to the model.

    Args:
        sample: The sample.
        text: The prompt; each image is one `<image>`.
        images: References of its images, those of examples first.
        shots: Ids of its examples.
        num_tokens: Length of the prompt, images' tokens included.
        key: Digest of everything that decides the answer.
    """

    sample: Sample
    text: str
    images: tuple[Any, ...]
    shots: tuple[str, ...]
    num_tokens: int
    key: str


def chat_text(sample: Sample, style: str, suffix: str | None = None) -> str:
    """Writes what the user says in the chat form.

    Args:
        sample: The sample.
        style: The task's prompt style.
        suffix: Text behind it; None: a request for a short answer where the style is "vqa".

    Returns:
        The text; samples without one ask for what their style wants.
    """
    text = sample.text or CHAT_TEXTS.get(style, "")
    return text + (CHAT_SUFFIXES.get(style, "") if suffix is None else suffix)


def render_prompt(
    processor: Any, sample: Sample, shots: Sequence[Sample], style: str, form: str, suffix: str | None = None
) -> str:
    """Renders a sample's prompt; control tokens that its texts spell out stay plain text.

    Args:
        processor: An `XGenMMProcessor`.
        sample: What to ask.
        shots: Its examples; the base form alone has them.
        style: The task's prompt style.
        form: "chat" or "base".
        suffix: Text behind the user's text in the chat form; None: the style's.

    Returns:
        The prompt; each image is one `<image>`.
    """
    if form == "base":
        from xgenmm_hf.data.encoding import render_content

        images = [image for part in (*shots, sample) for image in part.images]
        return render_content(processor, {"content": base_content(sample, shots, style), "images": images})
    from xgenmm_hf.inference.asking import RELEASED_SYSTEM, build_messages

    images: list[Any] = [None] * len(sample.images)
    messages = build_messages(images, chat_text(sample, style, suffix), RELEASED_SYSTEM)
    return processor.apply_chat_template(messages, add_generation_prompt=True)


def prepare(
    processor: Any,
    sample: Sample,
    shots: Sequence[Sample],
    text: str,
    identity: Mapping[str, Any],
    image_mode: str | None = None,
) -> Asked:
    """Measures a prompt and names everything that decides its answer.

    Args:
        processor: An `XGenMMProcessor`.
        sample: What to ask.
        shots: Its examples.
        text: The rendered prompt.
        identity: What decides answers besides: checkpoint, dtype, processor, longest answer, ...
        image_mode: Mode of the image processor; None: its own.

    Returns:
        The sample, ready to be asked.

    Raises:
        ValueError: If the header of an image cannot be read.
    """
    from xgenmm_hf.data.encoding import count_tiles_and_tokens

    images = tuple(image for part in (*shots, sample) for image in part.images)
    counts = count_tiles_and_tokens(processor, [image_size(image) for image in images], image_mode)
    # An image's one `<image>` is counted with its tokens.
    num_tokens = len(processor.tokenizer(text)["input_ids"]) - len(images) + sum(tokens for _, tokens in counts)
    decisive = json.dumps([dict(identity), sample.id, text, [image_key(image) for image in images]], sort_keys=True)
    key = hashlib.sha256(decisive.encode()).hexdigest()[:32]
    return Asked(sample, text, images, tuple(shot.id for shot in shots), num_tokens, key)
