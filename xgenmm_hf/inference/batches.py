"""Answers to many prompts at a time.

Prompts of any lengths are padded on the left and computed together; the answers are the same as one by one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from xgenmm_hf.inference.asking import end_tokens, generate_rows
from xgenmm_hf.modeling.chat_xgenmm import escape_special_tokens


if TYPE_CHECKING:
    from PIL import Image

    from xgenmm_hf.inference.feature_cache import FeatureCache
    from xgenmm_hf.inference.loading import Loaded


def answer_texts(
    loaded: "Loaded",
    texts: Sequence[str],
    images: Sequence["Image.Image"],
    max_new_tokens: int,
    image_mode: str | None = None,
    cache: "FeatureCache | None" = None,
    **options: Any,
) -> list[str]:
    """Continues one batch of prompts, up to the end of a turn, of a chunk or of the text."""
    model, processor = loaded.model, loaded.processor
    if cache is not None:
        inputs = cache.prepare(list(texts), list(images), image_mode)
    else:
        inputs = encode_batch(loaded, texts, images, image_mode)
    ends = end_tokens(model).tolist()
    rows = generate_rows(loaded, inputs, max_new_tokens=max_new_tokens, eos_token_id=ends, **options)
    return [read_answer(processor.tokenizer, ids) for ids in rows]


def encode_batch(
    loaded: "Loaded", texts: Sequence[str], images: Sequence["Image.Image"], image_mode: str | None = None
) -> Any:
    """Prepares model inputs, padded on the left."""
    options: dict[str, Any] = {"images": list(images)} if images else {}
    if image_mode is not None:
        options["image_aspect_ratio"] = image_mode
    inputs = loaded.processor(text=list(texts), padding=True, padding_side="left", return_tensors="pt", **options)
    inputs = inputs.to(loaded.model.device, loaded.model.dtype)
    if images and image_mode is not None:
        # Without this the model counts tiles by its own mode.
        inputs["image_num_tiles"] = inputs["image_num_tiles"].to(loaded.model.device)
    return inputs


def read_answer(tokenizer: Any, ids: list[int]) -> str:
    """Decodes generated ids up to the first control token."""
    return tokenizer.decode(before_control(tokenizer, ids)).strip()


def before_control(tokenizer: Any, ids: list[int]) -> list[int]:
    """Returns generated ids up to the first control token."""
    control = set(tokenizer.get_added_vocab().values())
    return ids[: next((position for position, index in enumerate(ids) if index in control), len(ids))]


def rate_answers(
    loaded: "Loaded",
    texts: Sequence[str],
    images: Sequence["Image.Image"],
    answers: Sequence[str],
    image_mode: str | None = None,
) -> list[tuple[float, bool]]:
    """Measures how likely given answers are, one batch of them."""
    tokenizer = loaded.processor.tokenizer
    whole = [text + escape_special_tokens(one.strip(), tokenizer) for text, one in zip(texts, answers, strict=True)]
    inputs = encode_batch(loaded, whole, images, image_mode)
    lengths = []
    for text, both in zip(texts, whole, strict=True):
        # An image counts as one token here: only what follows the prompt matters.
        prompt, ids = tokenizer(text)["input_ids"], tokenizer(both)["input_ids"]
        pairs = zip(prompt, ids, strict=False)
        shared = next((place for place, (one, other) in enumerate(pairs) if one != other), len(prompt))
        lengths.append(len(ids) - min(shared, len(ids)))
    if min(lengths) == 0:
        raise ValueError(f"An answer to rate is empty: {answers[lengths.index(0)]!r}; leave it out.")
    longest = max(lengths)
    targets = inputs["input_ids"][:, -longest:]
    with torch.inference_mode():
        logits = loaded.model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    greedy = logits.argmax(-1) == targets
    return [
        (float(loss[-length:].mean()), bool(same[-length:].all()))
        for loss, same, length in zip(losses, greedy, lengths, strict=True)
    ]
