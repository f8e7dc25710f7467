"""Greedy answers to many prompts at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from PIL import Image

    from xgenmm_hf.inference.feature_cache import FeatureCache
    from xgenmm_hf.inference.loading import Loaded


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: a text, and the images it is about (PIL images)."""

    text: str
    images: list["Image.Image"] = field(default_factory=list)


def answer_prompts(loaded: "Loaded", prompts: list[Prompt], max_new_tokens: int = 112) -> list[str]:
    """Answers one batch of prompts greedily, with the released models' system turn.

    Args:
        loaded: the model and its processor.
        prompts: what to ask; all of them are computed together.
        max_new_tokens: longest answer in tokens.

    Returns:
        An answer a prompt.
    """
    from xgenmm_hf.inference.asking import RELEASED_SYSTEM, build_messages

    texts = [
        loaded.processor.apply_chat_template(
            build_messages(prompt.images, prompt.text, RELEASED_SYSTEM), add_generation_prompt=True
        )
        for prompt in prompts
    ]
    return answer_texts(loaded, texts, [image for prompt in prompts for image in prompt.images], max_new_tokens)


def answer_texts(
    loaded: "Loaded",
    texts: Sequence[str],
    images: Sequence["Image.Image"],
    max_new_tokens: int,
    image_mode: str | None = None,
    cache: "FeatureCache | None" = None,
) -> list[str]:
    """Continues one batch of prompts greedily, up to the end of a turn, of a chunk or of the text.

    Args:
        loaded: The model and its processor.
        texts: Rendered prompts of any lengths; all are computed together.
        images: The images of all prompts, in order.
        max_new_tokens: Longest answer in tokens.
        image_mode: Mode of the image processor; None: its own.
        cache: What knows the tokens of images that were asked about before.

    Returns:
        An answer a prompt.
    """
    import torch

    from xgenmm_hf.inference.asking import end_tokens
    from xgenmm_hf.modeling.chat_xgenmm import END_OF_CHUNK_TOKEN

    model, processor = loaded.model, loaded.processor
    if cache is not None:
        inputs = cache.prepare(list(texts), list(images), image_mode)
    else:
        options: dict[str, Any] = {"images": list(images)} if images else {}
        if image_mode is not None:
            options["image_aspect_ratio"] = image_mode
        inputs = processor(text=list(texts), padding=True, padding_side="left", return_tensors="pt", **options)
        inputs = inputs.to(model.device, model.dtype)
    ends = [*end_tokens(model).tolist(), processor.tokenizer.convert_tokens_to_ids(END_OF_CHUNK_TOKEN)]
    padding = processor.tokenizer.pad_token_id
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=sorted(set(ends)),
            pad_token_id=ends[0] if padding is None else padding,
        )
    return [read_answer(processor.tokenizer, ids) for ids in output[:, inputs["input_ids"].shape[1] :].tolist()]


def read_answer(tokenizer: Any, ids: list[int]) -> str:
    """Decodes generated ids up to the first control token.

    Args:
        tokenizer: the checkpoint's tokenizer.
        ids: what was generated.

    Returns:
        The text.
    """
    return tokenizer.decode(before_control(tokenizer, ids)).strip()


def before_control(tokenizer: Any, ids: list[int]) -> list[int]:
    """Returns generated ids up to the first control token."""
    control = set(tokenizer.get_added_vocab().values())
    return ids[: next((position for position, index in enumerate(ids) if index in control), len(ids))]
