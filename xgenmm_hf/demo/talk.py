"""What the page's forms mean to the model: chats as messages, few-shot examples as one running text."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL
from xgenmm_hf.demo.streaming import stream_tokens
from xgenmm_hf.inference.asking import end_tokens, sampling_options
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompts import is_base, render_prompt, render_shots, trim_continuation
from xgenmm_hf.modeling.images_xgenmm import read_image


if TYPE_CHECKING:
    from PIL import Image

    from xgenmm_hf.explain.attention import Explanation

Message = dict[str, Any]
# Begins what the page says in place of an answer; such a turn is no part of the chat.
ERROR_MARK = "⚠"
REDRAW_SECONDS = 0.2
EMBEDDED = "It knows drawn shapes and short words only, no photographs."


@dataclass(frozen=True)
class Said:
    """An answer so far, its numbers of tokens and the seconds since the model began to read the prompt."""

    text: str
    prompt_tokens: int
    image_tokens: int
    new_tokens: int
    seconds: float

    @property
    def cost(self) -> str:
        """The numbers of tokens and the speed in a sentence."""
        prompt = f"{self.prompt_tokens} tokens in the prompt, {self.image_tokens} of them images"
        speed = f"{self.new_tokens / self.seconds:.1f} tokens per second" if self.seconds > 0 else "at once"
        return f"{prompt}; {self.new_tokens} new tokens, {speed}"


@dataclass
class Desk:
    """A loaded model that any number of visitors use, one at a time."""

    loaded: Loaded
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def is_base(self) -> bool:
        """Whether it is a base model."""
        return is_base(self.loaded.processor)

    @property
    def facts(self) -> str:
        """What a visitor should know of the model before asking."""
        model, config = self.loaded.model, self.loaded.model.config
        size = sum(parameter.numel() for parameter in model.parameters())
        shown = f"{size / 1e9:.1f} billion" if size >= 1e8 else f"{size / 1e6:.1f} million"
        form = "a base model, which continues text" if self.is_base else "tuned to chat"
        known = f" {EMBEDDED}" if config.name_or_path in (TINY_MODEL, TINY_BASE_MODEL) else ""
        latents, context = config.resampler_config.num_latents, config.text_config.max_position_embeddings
        return f"{shown} parameters, {form}; {latents} tokens per tile, context of {context} tokens.{known}"

    def chat(
        self, messages: Sequence[Message], *, max_new_tokens: int = 512, temperature: float = 0.0
    ) -> Iterator[Said]:
        """Answers the last message of a chat."""
        processor = self.loaded.processor
        images = [item["image"] for message in messages for item in message["content"] if item["type"] == "image"]
        text = render_prompt(processor, messages)
        inputs = processor(images=images or None, text=text, return_tensors="pt")
        last = "".join(item["text"] for item in messages[-1]["content"] if item["type"] == "text")
        for said in self._continue(inputs, max_new_tokens=max_new_tokens, **sampling_options(temperature)):
            yield replace(said, text=trim_continuation(said.text, last)) if self.is_base else said

    def continue_shots(
        self, shots: Sequence[tuple[str, str]], image: str, query: str = "", *, max_new_tokens: int = 64
    ) -> Iterator[str]:
        """Continues examples, (path of an image, text) each, in the base models' form."""
        images = [open_upload(path) for path in (*(path for path, _ in shots), image)]
        prompt = render_shots([text for _, text in shots], query, self.loaded.processor.tokenizer)
        inputs = self.loaded.processor(images=images, text=prompt, return_tensors="pt")
        for said in self._continue(inputs, max_new_tokens=max_new_tokens, do_sample=False):
            yield trim_continuation(said.text, query)

    def explain(self, image: "Image.Image", prompt: str) -> "Explanation":
        """Asks about an image and finds where the answer's attention lies; see `explain_answer`."""
        from xgenmm_hf.explain.attention import explain_answer

        with self._turn:
            return explain_answer(self.loaded, image, prompt)

    def _continue(self, inputs: Any, **options: Any) -> Iterator[Said]:
        """Streams the continuation of a prompt with exclusive use of the model, at the rate of page updates."""
        model, text, shown, ids = self.loaded.model, "", -REDRAW_SECONDS, inputs["input_ids"]
        num_image_tokens = int((ids == model.config.image_token_id).sum())
        with self._turn:
            begun = time.monotonic()
            options = {"eos_token_id": end_tokens(model).tolist(), **options}
            for piece, count in stream_tokens(self.loaded, inputs.to(model.device, model.dtype), **options):
                text += piece
                said = Said(text.lstrip(), ids.shape[1], num_image_tokens, count, time.monotonic() - begun)
                if said.seconds - shown >= REDRAW_SECONDS:
                    shown = said.seconds
                    yield said
            yield said


def messages_of_page(
    history: Sequence[Mapping[str, Any]], message: Mapping[str, Any], system: str | None = None
) -> list[Message]:
    """Turns Gradio's chat into messages: the parts of a turn are joined, images before the text."""
    files, text = list(message.get("files") or []), str(message.get("text") or "").strip()
    if not files and not text:
        raise ValueError("Nothing was sent: write a question, or add an image.")
    new = [*({"type": "file", "file": {"path": path}} for path in files), {"type": "text", "text": text}]
    messages = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    turns = [*without_errors(history), {"role": "user", "content": new}]
    for role, group in groupby(turns, itemgetter("role")):
        items = [item for one in group for item in _items_of(one)]
        opened = [open_upload(item["file"]["path"]) for item in items if item["type"] != "text"]
        text = "\n".join(item["text"] for item in items if item["type"] == "text" and item["text"])
        images = [{"type": "image", "image": image} for image in opened]
        messages.append({"role": role, "content": [*images, {"type": "text", "text": text}]})
    return messages


def without_errors(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leaves out the turns that failed: the error in place of an answer, and the user's messages before it."""
    kept: list[Mapping[str, Any]] = []
    for one in history:
        failed = any(item.get("text", "").startswith(ERROR_MARK) for item in _items_of(one))
        if one["role"] == "assistant" and failed:
            while kept and kept[-1]["role"] == "user":
                kept.pop()
        else:
            kept.append(one)
    return kept


def _items_of(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the texts and files of one of Gradio's turns, whose content may be one text or a list."""
    content = turn["content"]
    items = content if isinstance(content, list) else [content]
    return [{"type": "text", "text": item} if isinstance(item, str) else item for item in items]


def open_upload(path: str) -> "Image.Image":
    """Opens an uploaded image; an error names the file alone, not where the server keeps it."""
    name = Path(path).name
    try:
        return read_image({"bytes": Path(path).read_bytes(), "path": name})
    except OSError as error:
        raise ValueError(f"The image {name} cannot be read ({error.strerror}).") from None
