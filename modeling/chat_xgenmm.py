"""Chat format of xGen-MM: its tokens, the chat template, and escapes for special tokens that a user types.

The original's turns are Phi-3's: `<|user|>`, a line break, the content, `<|end|>`, a line break. The original also
appended its end-of-text token after a conversation without a generation prompt; this template does not, as an answer
ends with `<|end|>` in the data it was tuned on.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast


IMAGE_TOKEN = "<image>"
IMAGE_PLACEHOLDER_TOKEN = "<image placeholder>"
END_OF_CHUNK_TOKEN = "<|endofchunk|>"
MULTIMODAL_TOKENS = (IMAGE_TOKEN, IMAGE_PLACEHOLDER_TOKEN, END_OF_CHUNK_TOKEN)

SPACE_PIECE = "\u2581"
# Two noncharacters, which Unicode keeps for a program's own use. The normaliser in tokenizer.json removes the pair
# after added tokens are looked for and before the text is split into pieces.
ESCAPE_MARK = "\ufdd0\ufdd1"

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
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|assistant|>\\n' -}}
        {%- generation -%}
            {{- render(message.content).lstrip() + '<|end|>' -}}
        {%- endgeneration -%}
        {{- '\\n' -}}
    {%- elif message.role in ['system', 'user'] -%}
        {{- '<|' + message.role + '|>\\n' + render(message.content) + '<|end|>\\n' -}}
    {%- else -%}
        {{- raise_exception('A message has the role ' ~ message.role ~ '; use system, user or assistant.') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>\\n' -}}
{%- endif -%}
"""


def escape_special_tokens(text: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """Makes every added token that a text spells out plain text to the tokenizer.

    The ids are those of the same characters without any added token; the text looks the same, as the mark that is
    put into it is invisible.

    Args:
        text: What a user wrote.
        tokenizer: The tokenizer that will read it; its file must remove `ESCAPE_MARK`, as ours does.

    Returns:
        The text with a mark inside every such token.
    """
    return break_tokens(text, list(tokenizer.added_tokens_encoder))


def escape_messages(messages: Sequence, tokenizer: PreTrainedTokenizerFast) -> list:
    """Escapes the contents of a conversation (see `escape_special_tokens`); the caller's messages stay as they are.

    Args:
        messages: Messages with `role` and `content` (a string or a list of items), or a list of such conversations.
        tokenizer: The tokenizer that will read them.

    Returns:
        Copies whose text no longer holds an added token; everything but the contents is untouched.
    """
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
    """Puts the mark after the first character of every given token in a text.

    Args:
        text: Any text.
        tokens: Tokens of two or more characters; a shorter one cannot be broken and is left alone.

    Returns:
        The text without any of the tokens.
    """
    # The tokenizer reads its space piece as a space: a token spelled with one must be found too.
    text = text.replace(SPACE_PIECE, " ")
    for token in tokens:
        while len(token) > 1 and token in text:
            text = text.replace(token, token[0] + ESCAPE_MARK + token[1:])
    return text


def _seal_end(text: str, tokens: Iterable[str]) -> str:
    """Puts the mark at the end of a text that ends in the beginning of a token."""
    opens = any(text.endswith(token[:length]) for token in tokens for length in range(1, len(token)))
    return text + ESCAPE_MARK if opens else text
