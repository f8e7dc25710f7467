"""Conversations with images -> answers or ratings, batched; what the adapters of the harnesses share.

Shapes: a batch of B prompts of L tokens, padded on the left.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar


if TYPE_CHECKING:
    from PIL import Image

    from xgenmm_hf.inference.loading import Loaded

Item = TypeVar("Item")

DEFAULT_MAX_NEW_TOKENS = 1024
# lmms-eval asks every task to stop here unless the task says otherwise: its delimiter between few-shot examples. An
# instruct model's answer may have paragraphs.
PARAGRAPH = "\n\n"


@dataclass(frozen=True)
class Conversation:
    """A rendered prompt with its images.

    Args:
        text: The prompt; each image is one `<image>`.
        images: RGB images in the order of the prompt.
    """

    text: str
    images: list["Image.Image"]


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Args:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 decodes greedily.
        top_p: Share of probability to draw from; None: all.
        num_beams: Beams.
        until: Texts that end an answer; they do not belong to it.
        end_token: The only token that ends an answer; None: those of the checkpoint, and every control token.
    """

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1
    until: tuple[str, ...] = ()
    end_token: str | None = None

    def options(self) -> dict[str, Any]:
        """Returns the options of `generate`."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        if self.temperature <= 0:
            return {**options, "do_sample": False}
        drawn = {} if self.top_p is None else {"top_p": self.top_p}
        return {**options, "do_sample": True, "temperature": self.temperature, **drawn}


def render(processor: Any, messages: Sequence[Any], system: str | None = None, image_end: str = "\n") -> Conversation:
    """Renders messages with the chat template, up to where the answer begins.

    Args:
        processor: An `XGenMMProcessor`.
        messages: `{"role", "content"}`, the content a string or items `{"type": "text", "text"}` and `{"type":
            "image", "image" | "url"}` with a PIL image or a path.
        system: Text of a system turn, unless the messages begin with one.
        image_end: What stands behind each `<image>`; the template's own is a line break.

    Returns:
        The conversation.

    Raises:
        ValueError: If an item is neither text nor image, or an image cannot be read.
    """
    from xgenmm_hf.modeling.chat_xgenmm import IMAGE_TOKEN, escape_messages

    messages = [{"role": message["role"], "content": as_items(message["content"])} for message in messages]
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    images = [open_item(item) for message in messages for item in message["content"] if item["type"] == "image"]
    # What users and tasks wrote is escaped first, so that the images' own token can then be written out.
    messages = escape_messages(messages, processor.tokenizer)
    image = {"type": "text", "text": IMAGE_TOKEN + image_end}
    for message in messages:
        message["content"] = [image if item["type"] == "image" else item for item in message["content"]]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, escape_special_tokens=False)
    return Conversation(text, images)


def as_items(content: Any) -> list[dict[str, Any]]:
    """Returns a message's content as items.

    Args:
        content: A string, or items of text and images.

    Returns:
        The items.

    Raises:
        ValueError: If there is an item of another type.
    """
    items = [{"type": "text", "text": content}] if isinstance(content, str) else [dict(item) for item in content]
    for item in items:
        if item["type"] not in ("text", "image"):
            raise ValueError(f"A message holds an item of type {item['type']!r}; xGen-MM reads text and images only.")
    return items


def open_item(item: dict[str, Any]) -> "Image.Image":
    """Opens the image of an item.

    Args:
        item: It holds a PIL image, a path, or encoded bytes as `{"bytes", "path"}`, under `image` or `url`.

    Returns:
        The image in RGB.

    Raises:
        ValueError: If it cannot be read.
    """
    from xgenmm_hf.data.image_refs import image_ref, open_image

    source = item.get("image", item.get("url"))
    return open_image(image_ref(source) if isinstance(source, str) else source)


def generate_answers(
    loaded: "Loaded", conversations: Sequence[Conversation], decoding: Decoding | None = None
) -> list[str]:
    """Answers one batch of conversations.

    Args:
        loaded: Model and processor.
        conversations: What to answer; all are computed together.
        decoding: How; None: greedily.

    Returns:
        An answer a conversation, without control tokens.
    """
    import torch

    from xgenmm_hf.evaluation.answering import read_answer

    decoding = decoding or Decoding()
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    inputs = encode(loaded, conversations, [conversation.text for conversation in conversations])
    options = {**decoding.options(), "pad_token_id": tokenizer.pad_token_id}
    if decoding.end_token is not None:
        options["eos_token_id"] = tokenizer.convert_tokens_to_ids(decoding.end_token)
    with torch.inference_mode():
        output = model.generate(**inputs, **options)
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    if decoding.end_token is None:
        return [cut_at(read_answer(tokenizer, row), decoding.until) for row in rows]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return [cut_at(text, (decoding.end_token, *decoding.until)) for text in texts]


def cut_at(text: str, until: Sequence[str]) -> str:
    """Returns a text up to the first of the texts that end it."""
    for end in until:
        text = text.split(end)[0] if end else text
    return text.strip()


def encode(loaded: "Loaded", conversations: Sequence[Conversation], texts: Sequence[str]) -> Any:
    """Prepares model inputs, padded on the left.

    Args:
        loaded: Model and processor.
        conversations: They hold the images.
        texts: The prompts.

    Returns:
        The inputs, on the model's device and in its dtype.
    """
    images = [image for conversation in conversations for image in conversation.images]
    shown = {"images": images} if images else {}
    inputs = loaded.processor(**shown, text=list(texts), padding=True, padding_side="left", return_tensors="pt")
    return inputs.to(loaded.model.device, loaded.model.dtype)


def rate_continuations(
    loaded: "Loaded", conversations: Sequence[Conversation], continuations: Sequence[str]
) -> list[tuple[float, bool]]:
    """Measures how likely given answers are, one batch of them.

    Args:
        loaded: Model and processor.
        conversations: What is answered; all are computed together.
        continuations: An answer a conversation.

    Returns:
        For each the mean negative log-likelihood of its tokens, and whether greedy decoding gives them.

    Raises:
        ValueError: If an answer has no token of its own.
    """
    import torch

    from xgenmm_hf.modeling.chat_xgenmm import escape_special_tokens

    tokenizer = loaded.processor.tokenizer
    answers = [escape_special_tokens(text.strip(), tokenizer) for text in continuations]
    pairs = zip(conversations, answers, strict=True)
    inputs = encode(loaded, conversations, [conversation.text + answer for conversation, answer in pairs])
    lengths = []
    for conversation, answer in zip(conversations, answers, strict=True):
        # An image counts as one token here: only what follows the prompt matters.
        prompt, whole = (tokenizer(text)["input_ids"] for text in (conversation.text, conversation.text + answer))
        lengths.append(len(whole) - shared_length(prompt, whole))
    if min(lengths) == 0:
        raise ValueError(f"An answer to rate is empty: {continuations[lengths.index(0)]!r}; leave it out.")
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


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Returns how many ids two rows have in common before they part."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def in_batches(
    items: Sequence[Item], size: int, key: Callable[[Item], Any], group: Callable[[Item], Any]
) -> Iterator[list[int]]:
    """Splits items into batches that share their settings, the longest first.

    Args:
        items: The items.
        size: Items a batch.
        key: Orders the items of a group; the largest come first, so that memory runs out at once or never.
        group: Items of a batch have this in common; it must be hashable.

    Yields:
        Indices of the items of each batch.
    """
    groups: dict[Any, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(group(item), []).append(index)
    for members in groups.values():
        members.sort(key=lambda index: key(items[index]), reverse=True)
        for start in range(0, len(members), size):
            yield members[start : start + size]
