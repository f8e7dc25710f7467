"""Asking a loaded model about images: messages in, streamed answer out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import TextStreamer, set_seed

from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompts import build_messages, is_base, render_prompt, render_shots, trim_continuation


if TYPE_CHECKING:
    from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


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
        """Passes text to the function as soon as it cannot change any more."""
        if text:
            self.on_text(text)


def ask(
    loaded: Loaded,
    images: Sequence[Image.Image],
    prompt: str,
    *,
    system: str | None = None,
    shots: Sequence[tuple[Image.Image, str]] = (),
    max_new_tokens: int = 512,
    on_text: Callable[[str], None] | None = None,
    image_mode: str | None = None,
    stop: Sequence[str] = (),
    **options: Any,
) -> Answer:
    """Asks one question about any number of images; the answer is the most likely one unless `options` say otherwise.

    Args:
        loaded: Model and processor.
        images: Images in the order the question counts them.
        prompt: The question; for a base model the text that it continues.
        system: Text of a system turn; empty for none, None for the checkpoint's own.
        shots: Examples for a base model: images and their texts.
        max_new_tokens: Upper limit of the answer's length; an answer also ends where the context does.
        on_text: Called with each piece of the answer as it is generated; with a base model once, because text that
            it writes after its answer is cut first.
        image_mode: Mode of the image processor; None: its own.
        stop: Texts before which the answer ends; `on_text` is then called once.
        **options: Further options of `generate`.

    Returns:
        The answer.

    Raises:
        ValueError: If the prompt does not fit the model's context, or max_new_tokens is not positive.
    """
    model, processor = loaded.model, loaded.processor
    if shots and not is_base(processor):
        raise ValueError("This is an instruct model, which was not tuned on examples in the prompt: leave shots out.")
    if shots:
        text = render_shots([text for _, text in shots], prompt, processor.tokenizer, len(images))
    else:
        text = render_prompt(processor, build_messages(images, prompt, system))
    shown = [*(image for image, _ in shots), *images]
    inputs = processor(images=shown or None, text=text, return_tensors="pt", image_aspect_ratio=image_mode)
    inputs = inputs.to(model.device, model.dtype)
    return answer_inputs(loaded, inputs, prompt, max_new_tokens=max_new_tokens, on_text=on_text, stop=stop, **options)


def answer_inputs(
    loaded: Loaded,
    inputs: Any,
    prompt: str,
    *,
    max_new_tokens: int,
    on_text: Callable[[str], None] | None = None,
    stop: Sequence[str] = (),
    **options: Any,
) -> Answer:
    """Answers inputs on the model's device; `prompt` is the text that a base model continues. See `ask`."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more.")
    model, processor = loaded.model, loaded.processor
    base, length = is_base(processor), inputs["input_ids"].shape[1]
    room = room_for_answer(model.config, length)
    streamer = None if on_text is None or base or stop else CallbackStreamer(processor.tokenizer, on_text)
    if stop:
        options = {**options, "stop_strings": list(stop), "tokenizer": processor.tokenizer}
    ends, limit = end_tokens(model).tolist(), min(max_new_tokens, room)
    options |= {"max_new_tokens": limit, "eos_token_id": ends, "streamer": streamer}
    (new,) = generate_rows(loaded, inputs, **options)
    text = processor.decode(new, skip_special_tokens=True).strip()
    for mark in stop:
        text = text.split(mark)[0].strip()
    text = trim_continuation(text, prompt) if base else text
    if on_text is not None and streamer is None:
        on_text(text)
    return Answer(
        text=text,
        prompt_tokens=length,
        image_tokens=int((inputs["input_ids"] == model.config.image_token_id).sum()),
        new_tokens=len(new),
        finished=any(token in ends for token in new[-1:]) or (bool(stop) and len(new) < limit),
    )


def sampling_options(temperature: float, top_p: float = 1.0, seed: int | None = None) -> dict[str, Any]:
    """Sets the seed, if there is one, and returns the options of `generate`; temperature 0 means greedy."""
    if seed is not None:
        set_seed(seed)
    if temperature <= 0:
        return {"do_sample": False, "num_beams": 1}
    return {"do_sample": True, "num_beams": 1, "temperature": temperature, "top_p": top_p}


def generate_rows(loaded: Loaded, inputs: Any, **options: Any) -> list[list[int]]:
    """Runs `generate`, greedily unless the options say otherwise, and returns the new ids of each row."""
    padding = loaded.processor.tokenizer.pad_token_id
    settings = {
        "do_sample": False,
        "num_beams": 1,
        **({} if padding is None else {"pad_token_id": padding}),
        **options,
    }
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, **settings)
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def room_for_answer(config: Any, length: int) -> int:
    """Returns how many tokens may follow a prompt."""
    context = config.text_config.max_position_embeddings
    if length >= context:
        raise ValueError(
            f"The prompt takes {length} tokens and the model's context holds {context}: "
            "use fewer or smaller images, or a shorter text."
        )
    return context - length


def end_tokens(model: "XGenMMForConditionalGeneration") -> torch.Tensor:
    """Returns the ids at which generation ends, on the model's device: the model's own and `<|endofchunk|>`."""
    ids = model.generation_config.eos_token_id
    own = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return torch.tensor([*own, model.config.end_of_chunk_token_id], device=model.device)
