"""Asking a loaded model about images: messages in, streamed answer out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import TextStreamer

from xgenmm_hf.inference.loading import Loaded


# Source: the notebooks published with the instruct models.
RELEASED_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def system_turn(name: str | None) -> str | None:
    """Returns the text of the system turn that a command line names.

    Args:
        name: ``none`` or None, ``released`` (the turn that the released instruct models were tuned with), or the text
            itself.

    Returns:
        The text; None: no system turn.
    """
    return {None: None, "none": None, "released": RELEASED_SYSTEM}.get(name, name)


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost.

    Attributes:
        text: The answer without control tokens.
        prompt_tokens: Tokens of the prompt, image tokens included.
        image_tokens: Tokens of the images alone.
        new_tokens: Tokens generated, the end token included.
        finished: Whether the model ended by itself rather than by the limit on new tokens.
    """

    text: str
    prompt_tokens: int
    image_tokens: int
    new_tokens: int
    finished: bool


class CallbackStreamer(TextStreamer):
    """A Transformers streamer that hands each finished piece of text to a function instead of printing it."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Passes text on as soon as it cannot change any more."""
        if text:
            self.on_text(text)


def build_messages(images: Sequence[Image.Image], prompt: str, system: str | None = None) -> list[dict[str, Any]]:
    """Builds the chat for one question about images, which come before the text as in the released models' tuning.

    Args:
        images: Images in the order the question counts them.
        prompt: The question.
        system: Text of a system turn; None leaves the turn out.

    Returns:
        Messages for `XGenMMProcessor.apply_chat_template`.
    """
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": prompt})
    messages: list[dict[str, Any]] = []
    if system is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": system}]})
    return [*messages, {"role": "user", "content": content}]


def ask(
    loaded: Loaded,
    images: Sequence[Image.Image],
    prompt: str,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Asks one question about any number of images; the answer is the most likely one (greedy).

    Args:
        loaded: Model and processor.
        images: Images in the order the question counts them.
        prompt: The question.
        system: Text of a system turn; None leaves the turn out.
        max_new_tokens: Upper limit of the answer's length; an answer also ends where the context does.
        on_text: Called with each piece of the answer as it is generated.

    Returns:
        The answer.

    Raises:
        ValueError: If the prompt does not fit the model's context, or max_new_tokens is not positive.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more.")
    model, processor = loaded.model, loaded.processor
    inputs = processor.apply_chat_template(
        build_messages(images, prompt, system),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device, model.dtype)
    length = inputs["input_ids"].shape[1]
    room = room_for_answer(model.config, length)
    streamer = CallbackStreamer(processor.tokenizer, on_text) if on_text is not None else None
    with torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=min(max_new_tokens, room), do_sample=False, num_beams=1, streamer=streamer
        )
    new = output[0, length:]
    return Answer(
        text=processor.decode(new, skip_special_tokens=True).strip(),
        prompt_tokens=length,
        image_tokens=int((inputs["input_ids"] == model.config.image_token_id).sum()),
        new_tokens=new.shape[0],
        finished=bool(torch.isin(new[-1:], end_tokens(model)).any()),
    )


def room_for_answer(config: Any, length: int) -> int:
    """Returns how many tokens may follow a prompt.

    Args:
        config: The model's config.
        length: Tokens of the prompt.

    Returns:
        Tokens left in the context.

    Raises:
        ValueError: If nothing is left.
    """
    context = config.text_config.max_position_embeddings
    if length >= context:
        raise ValueError(
            f"The prompt takes {length} tokens and the model's context holds {context}: "
            "use fewer or smaller images, or a shorter text."
        )
    return context - length


def end_tokens(model: Any) -> torch.Tensor:
    """Returns the ids at which generation ends, on the model's device."""
    ids = model.generation_config.eos_token_id
    ids = [] if ids is None else ids
    return torch.as_tensor(ids, device=model.device, dtype=torch.long).reshape(-1)
