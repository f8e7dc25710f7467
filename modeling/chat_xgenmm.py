"""Chat format of xGen-MM: its tokens, the chat template, and escapes for special tokens that a user types.

The original's turns are Phi-3's: `<|user|>`, a line break, the content, `<|end|>`, a line break. Without its own
system turn a conversation gets the one that the instruct models saw in every row of their tuning; an empty one is left
out. The original also appended its end-of-text token after a conversation without a generation prompt. This template
does not, because an answer ends with `<|end|>` in the tuning data.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import logging


IMAGE_TOKEN = "<image>"
IMAGE_PLACEHOLDER_TOKEN = "<image placeholder>"
END_OF_CHUNK_TOKEN = "<|endofchunk|>"
MULTIMODAL_TOKENS = (IMAGE_TOKEN, IMAGE_PLACEHOLDER_TOKEN, END_OF_CHUNK_TOKEN)
# keys of an item that may hold an image, in the order of Transformers
IMAGE_KEYS = ("image", "url", "path", "base64")
NO_CHAT_TEMPLATE = (
    "This is a base model: it has no chat template, because it was never tuned on chats. Write running text with "
    "<image> for each image, after examples that end in <|endofchunk|> where you have some, or use an instruct model."
)

logger = logging.get_logger(__name__)

SPACE_PIECE = "\u2581"
# Two noncharacters, which Unicode reserves for internal use. The normaliser in tokenizer.json removes the pair after
# added tokens are matched and before the text is split into pieces.
ESCAPE_MARK = "\ufdd0\ufdd1"

# Source: the notebooks published with the instruct models.
RELEASED_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CHAT_TEMPLATE = """\
{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content -%}
        {%- for item in content -%}
            {%- if item is string -%}
                {{- item -}}
            {%- elif item.type in ['image', 'image_url'] -%}
                {{- '<image>\\n' -}}
            {%- elif item.type == 'text' -%}
                {{- item.text -}}
            {%- else -%}
                {{- raise_exception('A message holds an item of type ' ~ item.type ~ '; use text or image.') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if messages[0].role != 'system' -%}
    {{- "<|system|>\\n%s<|end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|assistant|>\\n' -}}
        {%- generation -%}
            {{- render(message.content).lstrip() + '<|end|>' -}}
        {%- endgeneration -%}
        {{- '\\n' -}}
    {%- elif message.role == 'user' -%}
        {{- '<|user|>\\n' + render(message.content) + '<|end|>\\n' -}}
    {%- elif message.role == 'system' -%}
        {%- set system = render(message.content) -%}
        {{- '<|system|>\\n' + system + '<|end|>\\n' if system else '' -}}
    {%- else -%}
        {{- raise_exception('A message has the role ' ~ message.role ~ '; use system, user or assistant.') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>\\n' -}}
{%- endif -%}
""".replace("%s", RELEASED_SYSTEM)


def content_as_items(conversation: Any) -> list:
    """Returns the conversation with all contents as text and image items, the form that both library lines read."""
    messages = getattr(conversation, "messages", conversation)
    if not isinstance(messages, (list, tuple)) or not messages:
        shown = "empty" if isinstance(messages, (list, tuple)) else f"a {type(messages).__name__}"
        raise ValueError(f'The conversation is {shown}; pass a list of messages, {{"role": "user", "content": ...}}.')
    messages = [one.model_dump() if hasattr(one, "model_dump") else one for one in messages]  # of a client library
    return [_as_items(one) if isinstance(one, Mapping) else content_as_items(one) for one in messages]


def _as_items(message: Mapping) -> dict[str, Any]:
    content = message.get("content")
    if message.get("tool_calls"):
        logger.warning_once("The chat template has no place for tool_calls: only the text of such messages is read.")
    if content is None or isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    elif isinstance(content, Mapping) or not isinstance(content, (list, tuple)):
        raise ValueError(f"A message's content is a {type(content).__name__}; pass a string or a list of items.")
    return {**message, "content": [_as_item(item) for item in content]}


def _as_item(item: Any) -> dict[str, Any]:
    """Rewrites one item; data sets with one column per key leave None where a key does not apply."""
    if isinstance(item, str):
        return {"type": "text", "text": item}
    if not isinstance(item, Mapping) or not isinstance(item.get("type"), str):
        raise ValueError('A message holds an item without a type; write {"type": "text", "text": ...} or an image.')
    if item["type"] == "text":
        return {"type": "text", "text": item.get("text") or ""}
    if item["type"] == "image_url":
        url = item.get("image_url")
        item = {"type": "image", "url": url.get("url") if isinstance(url, Mapping) else url}
    if item["type"] != "image":
        return dict(item)
    pixels = next((item[key] for key in IMAGE_KEYS if item.get(key) is not None), None)
    return {"type": "image"} if pixels is None else {"type": "image", "image": pixels}


def escape_special_tokens(text: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """Makes the tokenizer read added tokens that are spelled out in a text as plain text.

    The ids are those of the same characters without any added token. The text looks the same because the mark that
    is put into it is invisible.
    """
    return break_tokens(text, list(tokenizer.added_tokens_encoder))


def escape_messages(messages: Sequence, tokenizer: PreTrainedTokenizerFast) -> list:
    """Escapes the contents of a conversation (see `escape_special_tokens`); the caller's messages stay as they are."""
    tokens = list(tokenizer.added_tokens_encoder)
    return [_escape_message(message, tokens) for message in getattr(messages, "messages", messages)]


def _escape_message(message: Any, tokens: list[str]) -> Any:
    """Escapes one message, or each message of a conversation inside a batch."""
    if isinstance(message, Mapping):
        if isinstance(message.get("content"), str):
            return {**message, "content": break_tokens(message["content"], tokens)}
        if isinstance(message.get("content"), (list, tuple)):
            return {**message, "content": _escape_items(message["content"], tokens)}
        return message
    conversation = getattr(message, "messages", message)
    if isinstance(conversation, (list, tuple)):
        return [_escape_message(part, tokens) for part in conversation]
    return message


def _escape_items(items: Sequence, tokens: list[str]) -> list:
    """Escapes the text items of one content, also where two of them would spell a token together."""
    escaped: list = []
    for item in items:
        if isinstance(item, str):
            escaped.append(_seal_end(break_tokens(item, tokens), tokens))
        elif isinstance(item, Mapping) and isinstance(item.get("text"), str):
            escaped.append({**item, "text": _seal_end(break_tokens(item["text"], tokens), tokens)})
        else:
            escaped.append(item)
    return escaped


def break_tokens(text: str, tokens: Iterable[str]) -> str:
    """Puts the mark after the first character of every given token in a text."""
    # The tokenizer reads its space piece as a space, so tokens spelled with that piece must be found too.
    text = text.replace(SPACE_PIECE, " ")
    for token in tokens:
        while len(token) > 1 and token in text:
            text = text.replace(token, token[0] + ESCAPE_MARK + token[1:])
    return text


def _seal_end(text: str, tokens: Iterable[str]) -> str:
    """Puts the mark at the end of a text that ends with the beginning of a token."""
    opens = any(text.endswith(token[:length]) for token in tokens for length in range(1, len(token)))
    return text + ESCAPE_MARK if opens else text
