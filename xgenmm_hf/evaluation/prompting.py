"""Samples -> prompts with their images and lengths, and the prompt that is in force in words.

Two forms: "chat" is the instruct models' (the checkpoint's chat template), "base" that of the base models, with or
without examples (see `few_shot`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from xgenmm_hf.data.encoding import count_tiles_and_tokens, render_content
from xgenmm_hf.data.image_refs import image_size
from xgenmm_hf.evaluation.few_shot import base_content, pieces_of
from xgenmm_hf.evaluation.samples import Sample, Task, image_key
from xgenmm_hf.evaluation.settings import AskSettings


# What the harnesses of the field put behind a question.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
CHOOSE = "\nAnswer with the option's letter from the given choices directly."
CHAT_TEXTS = {"caption": "Describe the image in one short sentence."}


class AskedSample(NamedTuple):
    """A sample as it is put to the model; the key is a digest of everything that decides the answer."""

    sample: Sample
    text: str
    images: tuple[Any, ...]
    shots: tuple[str, ...]
    num_tokens: int
    key: str


def chat_messages(sample: Sample, style: str, settings: AskSettings) -> list[dict[str, Any]]:
    """Builds the chat that asks a sample; the system turn is the template's unless the settings have one."""
    text = sample.text or settings.instruction or CHAT_TEXTS.get(style, "")
    pieces = pieces_of(sample, text + suffix_of(sample, style, settings))
    content = [{"type": "image"} if piece is None else {"type": "text", "text": piece} for piece in pieces]
    turns = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    return [*turns, {"role": "user", "content": content}]


def suffix_of(sample: Sample, style: str, settings: AskSettings) -> str:
    """Returns the text behind a sample's question in the chat form."""
    usual = CHOOSE if "choices" in sample.options else SHORT_ANSWER if style == "vqa" else ""
    if usual and settings.tuned_suffix is not None:
        usual = "" if sample.text.endswith(settings.tuned_suffix) else settings.tuned_suffix
    return usual if settings.suffix is None else settings.suffix


def render_prompt(processor: Any, sample: Sample, shots: Sequence[Sample], style: str, settings: AskSettings) -> str:
    """Renders a sample's prompt; control tokens that its texts spell out stay plain text."""
    if settings.prompt_form == "chat":
        return processor.apply_chat_template(chat_messages(sample, style, settings), add_generation_prompt=True)
    content = base_content(sample, shots, style, settings.rules, settings.instruction)
    return render_content(processor, {"content": content, "images": _images_of(sample, shots)})


def _images_of(sample: Sample, shots: Sequence[Sample]) -> list[Any]:
    return [image for part in (*shots, sample) for image in part.images]


def prompt_length(processor: Any, text: str, sizes: Sequence[tuple[int, int]], image_mode: str | None = None) -> int:
    """Counts the tokens of a prompt without looking at a pixel."""
    counts = count_tiles_and_tokens(processor, list(sizes), image_mode)
    return len(processor.tokenizer(text)["input_ids"]) - len(sizes) + sum(tokens for _, tokens in counts)


def prepare(
    processor: Any,
    sample: Sample,
    shots: Sequence[Sample],
    text: str,
    identity: Mapping[str, Any],
    image_mode: str | None = None,
) -> AskedSample:
    """Measures a prompt and names everything that decides its answer."""
    images = tuple(_images_of(sample, shots))
    num_tokens = prompt_length(processor, text, [image_size(image) for image in images], image_mode)
    decisive = json.dumps([dict(identity), sample.id, text, [image_key(image) for image in images]], sort_keys=True)
    key = hashlib.sha256(decisive.encode()).hexdigest()[:32]
    return AskedSample(sample, text, images, tuple(shot.id for shot in shots), num_tokens, key)


def describe_prompt(processor: Any, task: Task, settings: AskSettings) -> dict[str, Any]:
    """Says which prompt is in force, for the start of a run and for its result."""
    style, chat = task.prompt_style, settings.prompt_form == "chat"
    first = task.samples[0]
    marks = "".join("<image>" for _ in first.images) if first.marked else ""
    plain = replace(first, text=f"{marks}{{question}}" if first.text else "")
    written = CHAT_TEXTS.get(style, "") if chat else ""
    return {
        "form": settings.prompt_form,
        "protocol": settings.protocol,
        "shots": settings.shots,
        "seed": settings.seed if settings.shots else None,
        "suffixes": sorted({suffix_of(sample, style, settings) for sample in task.samples}) if chat else [],
        "instruction": written if settings.instruction is None else settings.instruction,
        "rendered": render_prompt(processor, plain, [], style, settings),
    }
