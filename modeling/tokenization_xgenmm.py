"""Tokenizer of xGen-MM: the ids and texts of the slow Llama tokenizer it was trained with, from the fast library.

The released models were tuned and published with `LlamaTokenizer(use_fast=False, legacy=False)`. The rule that a
tokenizer file cannot express is applied here: one space goes before the whole text unless it starts with a special
token (one that `all_special_tokens` names; `<|system|>` and its kind are only marked as special in the file).

Shapes: texts, token lists and ids are plain Python lists here; offsets are (start, end) pairs of characters.
"""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, BatchEncoding, PretrainedConfig, PreTrainedTokenizerFast

from .chat_xgenmm import ESCAPE_MARK, IMAGE_PLACEHOLDER_TOKEN, IMAGE_TOKEN, SPACE_PIECE, break_tokens, escape_messages
from .compat_xgenmm import TOKENIZES_IN_BATCHES


# The placeholders after an image's token in the base models' form.
_PLACEHOLDERS = re.compile(f"(?<={re.escape(IMAGE_TOKEN)})(?:{re.escape(IMAGE_PLACEHOLDER_TOKEN)})+")
_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")
# Decodes each byte that belongs to no character to one replacement character.
_PER_BYTE = "xgenmm_per_byte"
codecs.register_error(
    _PER_BYTE,
    lambda error: ("\ufffd" * (error.end - error.start), error.end),  # type: ignore[attr-defined]
)
# White space in Python, and so for the slow tokenizer's tokens that strip it, but not in the fast library.
_SEPARATORS = frozenset("\x1c\x1d\x1e\x1f")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_AUTO_MAP = {"AutoTokenizer": ["tokenization_xgenmm.XGenMMTokenizer", "tokenization_xgenmm.XGenMMTokenizer"]}
# Fields that a library line writes about its own run, or in a form that the other line cannot load.
_UNSAVED = (
    "backend",
    "extra_special_tokens",
    "files_loaded",
    "is_local",
    "legacy",
    "local_files_only",
    "model_specific_special_tokens",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
)


class PrefixedEncoding:
    """The library's encoding, its positions counted from the caller's text without the space that was put before it.

    `shifts` are, per sequence, the number of characters put before it, or a list of them, one per word.
    """

    def __init__(self, encoding: Any, shifts: Sequence):
        self._encoding = encoding
        self._shifts = shifts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also while a copy is being made, when there is no encoding yet
            raise AttributeError(name)
        return getattr(self._encoding, name)

    def __len__(self) -> int:
        return len(self._encoding)

    def _shift_of(self, sequence: int, word: int | None = None) -> int:
        """Number of characters that were put before a word of a sequence."""
        shift = self._shifts[sequence]
        return shift if isinstance(shift, int) else sum(shift[word or 0 :][:1])

    def _moved(self, span: tuple[int, int] | None, sequence: int | None, word: int | None) -> tuple[int, int] | None:
        """Counts a span from the caller's text; what was put before it has no width there."""
        if span is None or sequence is None:
            return span
        start, end = (max(edge - self._shift_of(sequence, word), 0) for edge in span)
        return start, end

    @property
    def offsets(self) -> list:
        """Spans of the tokens in the caller's text, one (start, end) per token."""
        encoding = self._encoding
        if self._shifts in ((0,), (1,)):  # one text: at most the one space
            if self._shifts == (0,):
                return encoding.offsets
            return [(start - (start > 0), end - (end > 0)) for start, end in encoding.offsets]
        return list(map(self._moved, encoding.offsets, encoding.sequence_ids, encoding.word_ids))

    @property
    def overflowing(self) -> list:
        """The encodings of what truncation cut off."""
        return [PrefixedEncoding(encoding, self._shifts) for encoding in self._encoding.overflowing]

    def token_to_chars(self, token_index: int) -> Any:
        """Returns the span of a token (see `tokenizers.Encoding.token_to_chars`)."""
        sequence = self._encoding.token_to_sequence(token_index)
        word = self._encoding.word_ids[token_index] if sequence is not None else None
        return self._moved(self._encoding.token_to_chars(token_index), sequence, word)

    def char_to_token(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """Returns the token at a character (see `tokenizers.Encoding.char_to_token`)."""
        return self._encoding.char_to_token(char_pos + self._shift_of(sequence_index), sequence_index)

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> Any:
        """Returns the span of a word (see `tokenizers.Encoding.word_to_chars`)."""
        return self._moved(self._encoding.word_to_chars(word_index, sequence_index), sequence_index, word_index)

    def char_to_word(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """Returns the word at a character (see `tokenizers.Encoding.char_to_word`)."""
        return self._encoding.char_to_word(char_pos + self._shift_of(sequence_index), sequence_index)


class XGenMMTokenizer(PreTrainedTokenizerFast):
    """Encodes and decodes texts exactly as the original's slow Llama tokenizer does.

    It reads and writes the library's usual files; `tokenizer.json` holds a byte-fallback BPE whose normaliser only
    removes `ESCAPE_MARK` and turns spaces into the space piece. Saved folders load on every supported library line.

    Attributes:
        one_token_per_image: Whether placeholders after an image's token are left out. An engine that replaces the
            image's token itself turns this on (see `xgenmm_hf.engines`); by default a text has the original's ids.

    Example:
        ```python
        >>> from xgenmm_hf import TINY_MODEL, XGenMMTokenizer
        >>> tokenizer = XGenMMTokenizer.from_pretrained(TINY_MODEL)
        >>> tokenizer.decode(tokenizer("What is this?")["input_ids"])
        'What is this?'
        ```
    """

    one_token_per_image = False

    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"
    # Whether skip_special_tokens leaves out every token marked as special in the file, and not only those that
    # all_special_tokens names, as the original's did; a processor sets it.
    skip_control_tokens = False
    _auto_class = "AutoTokenizer"

    @property
    def image_token(self) -> str:
        """The token that stands for an image."""
        return IMAGE_TOKEN

    @property
    def image_token_id(self) -> int | None:
        """The id of `image_token`, if the vocabulary has it."""
        return self.backend_tokenizer.token_to_id(IMAGE_TOKEN)

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Encodes texts under the rule: every call on 5.x, single texts on 4.57."""
        # For a chat that it has marked, the library calls this method again for each piece.
        if TOKENIZES_IN_BATCHES or kwargs.get("sanitize_control_tokens"):
            return super()._encode_plus(text, text_pair, *args, **kwargs)
        words = bool(kwargs.get("is_split_into_words"))
        batched = isinstance(text, (list, tuple)) and (not words or isinstance((list(text) or [""])[0], (list, tuple)))
        if batched:
            samples = list(text) if text_pair is None else list(zip(text, text_pair, strict=False))
        else:
            samples = [(text, text_pair)] if text_pair else [text]
        read, shift = self._rule(kwargs.get("split_special_tokens"))
        encoded = super()._encode_plus(_map_texts(text, read), _map_texts(text_pair, read), *args, **kwargs)
        return _count_from_the_text(encoded, _map_texts(samples, shift), words)

    def _batch_encode_plus(self, batch_text_or_text_pairs: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Encodes a batch under the rule: every call on 4.57."""
        read, shift = self._rule(kwargs.get("split_special_tokens"))
        texts = _map_texts(batch_text_or_text_pairs, read)
        encoded = super()._batch_encode_plus(texts, *args, **kwargs)
        shifts = _map_texts(batch_text_or_text_pairs, shift)
        return _count_from_the_text(encoded, shifts, bool(kwargs.get("is_split_into_words")))

    def _rule(self, split_special_tokens: bool | None) -> tuple[Callable[[str], str], Callable[[str], int]]:
        """Returns two functions of a text: the text to encode, and the number of characters put before it.

        Source: `LlamaTokenizer.tokenize` with `legacy=False` (transformers 4.41).
        """
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        # The slow tokenizer split every added token then; the library only splits those marked as special.
        plain = [token.content for token in self.added_tokens_decoder.values() if split and not token.special]
        special = () if split else tuple(self.all_special_tokens)
        greedy = "|".join(re.escape(token.content) for token in self.added_tokens_decoder.values() if token.rstrip)

        def shift(text: str) -> int:
            # A text that starts with the mark continues a text that was already encoded (see the processor).
            return int(bool(text) and not text.replace(SPACE_PIECE, " ").startswith((*special, ESCAPE_MARK)))

        def read(text: str) -> str:
            if greedy and not split and not _SEPARATORS.isdisjoint(text):
                text = re.sub(rf"({greedy})(\s+)", lambda match: match[1] + " " * len(match[2]), text)
            if self.one_token_per_image:
                text = _PLACEHOLDERS.sub("", text)
            return " " * shift(text) + break_tokens(text, plain)

        return read, shift

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """Splits a text into tokens; a token that strips white space is named without it.

        Args:
            text: The text.
            pair: A second text, read on its own.
            add_special_tokens: Whether to add what the file's post-processor adds.
            **kwargs: See the library's `encode`.

        Returns:
            Tokens that `convert_tokens_to_ids` knows.
        """
        ids = self.encode(text, pair, add_special_tokens=add_special_tokens, **kwargs)
        return [self.backend_tokenizer.id_to_token(index) or "" for index in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Joins tokens as the original did.

        The first token loses its space, and a special token stands in the text without spaces around it.
        Source: `LlamaTokenizer.convert_tokens_to_string` with `legacy=False` (transformers 4.41).

        Args:
            tokens: Tokens as `convert_ids_to_tokens` gives them.

        Returns:
            The text.
        """
        special = set(self.all_special_tokens)
        text = ""
        pieces: list[str] = []
        for index, token in enumerate(tokens):
            if token in special:
                text += self._join_pieces(pieces) + token
                pieces = []
                continue
            if index == 1 and tokens[0] in special and not token.startswith(SPACE_PIECE):
                text += " "
            pieces.append(token.removeprefix(SPACE_PIECE) if index == 0 else token)
        return text + self._join_pieces(pieces)

    def _join_pieces(self, pieces: list[str]) -> str:
        """Joins pieces of plain text as SentencePiece does: runs of byte pieces become characters where they can."""
        text, run = "", bytearray()
        for piece in pieces:
            if byte := _BYTE_PIECE.fullmatch(piece):
                run.append(int(byte.group(1), 16))
                continue
            known = self.backend_tokenizer.token_to_id(piece) is not None
            text += run.decode("utf-8", _PER_BYTE) + (piece.replace(SPACE_PIECE, " ") if known else piece)
            run.clear()
        return text + run.decode("utf-8", _PER_BYTE)

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
        skip_control_tokens: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """Decodes ids as the original did: added tokens stand between spaces.

        `skip_special_tokens` leaves out what `all_special_tokens` names, as the original did; `skip_control_tokens`
        (default: the attribute of this name, where special tokens are skipped) leaves out every token marked as
        special in the file, `<|end|>` and the roles too.
        Source: `PreTrainedTokenizer._decode` (transformers 4.41).
        """
        if skip_control_tokens is None:
            skip_control_tokens = skip_special_tokens and self.skip_control_tokens
        ids = token_ids["input_ids"] if isinstance(token_ids, dict) else token_ids
        tokens = [self.backend_tokenizer.id_to_token(int(index)) for index in ([ids] if isinstance(ids, int) else ids)]
        added = self.added_tokens_decoder.values()
        hidden = set(self.all_special_tokens) if skip_special_tokens or skip_control_tokens else set()
        if skip_control_tokens:
            hidden |= {token.content for token in added if token.special}
        named = {token for name, token in self.special_tokens_map.items() if name in _NAMED_TOKENS}
        apart = {token.content for token in added} - named
        shown = [token for token in tokens if token is not None and token not in hidden]
        parts: list[str] = []
        for stands_apart, group in groupby(shown, apart.__contains__):
            run = list(group)
            parts += run if stands_apart else [self.convert_tokens_to_string(run)]
        parts = [part for part in parts[:-1] if part] + parts[-1:]
        text = (" " if spaces_between_special_tokens else "").join(parts)
        clean = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        return self.clean_up_tokenization(text) if clean else text

    def apply_chat_template(
        self, conversation: Any, *args: Any, escape_special_tokens: bool = True, **kwargs: Any
    ) -> Any:
        """Renders a conversation; special tokens typed inside contents stay plain text.

        Args:
            conversation: A conversation or a list of them.
            *args: See the library's method of this name.
            escape_special_tokens: False lets tokens typed inside contents count, for example `<image>`.
            **kwargs: See the library's method of this name.

        Returns:
            What the library's method returns.
        """
        if escape_special_tokens:
            conversation = escape_messages(conversation, self)
        return super().apply_chat_template(conversation, *args, **kwargs)

    def _save_pretrained(
        self, save_directory: Any, file_names: tuple, legacy_format: Any = None, filename_prefix: str | None = None
    ) -> tuple:
        """Saves the same files on every library line, in the form that all of them load."""
        # Padding and truncation belong to the last call, not to the tokenizer, but the backend would save them.
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        written = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        names = (f"{prefix}tokenizer_config.json", f"{prefix}special_tokens_map.json")
        config_file, map_file = (Path(save_directory) / name for name in names)
        config = json.loads(config_file.read_text(encoding="utf-8"))
        _write_json(config_file, self._portable_config(config))
        _write_json(map_file, self._portable_special_tokens())
        return tuple(dict.fromkeys([*written, str(map_file)]))

    def _portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the content of tokenizer_config.json in the form that all library lines load."""
        auto_map = config.get("auto_map")
        added = self.added_tokens_decoder.items()
        return {
            **{name: value for name, value in config.items() if name not in _UNSAVED},
            "added_tokens_decoder": {str(index): token.__getstate__() for index, token in added},
            "additional_special_tokens": self._portable_special_tokens()["additional_special_tokens"],
            "auto_map": {**(auto_map if isinstance(auto_map, dict) else {}), **_AUTO_MAP},
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "model_input_names": list(self.model_input_names),
            "tokenizer_class": XGenMMTokenizer.__name__,
        }

    def _portable_special_tokens(self) -> dict[str, Any]:
        """Returns the named special tokens and the list of the others, as strings."""
        named = {name: token for name, token in self.special_tokens_map.items() if name in _NAMED_TOKENS}
        others = [token for token in self.all_special_tokens if token not in named.values()]
        return {**named, "additional_special_tokens": others}


def register_tokenizer(config_class: type[PretrainedConfig]) -> None:
    """Lets `AutoTokenizer` load `XGenMMTokenizer`, without remote code, for folders that name it."""
    AutoTokenizer.register(config_class, fast_tokenizer_class=XGenMMTokenizer, exist_ok=True)


def _map_texts(value: Any, function: Callable[[str], Any]) -> Any:
    """Applies a function to every text of a text, a pair, a list of words or a batch of these."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_map_texts(part, function) for part in value])
    return value


def _count_from_the_text(encoded: BatchEncoding, shifts: Sequence, words: bool) -> BatchEncoding:
    """Makes the positions of a batch's encodings count from the caller's texts."""
    if not encoded.encodings:
        return encoded
    samples = encoded.get("overflow_to_sample_mapping", range(len(encoded.encodings)))
    wrapped: list[Any] = [
        PrefixedEncoding(encoding, _by_sequence(shifts[int(sample)], words))
        for sample, encoding in zip(samples, encoded.encodings, strict=True)
    ]
    encoded._encodings = wrapped
    if "offset_mapping" in encoded:
        rows, old = [encoding.offsets for encoding in wrapped], encoded["offset_mapping"]
        if isinstance(old, list):
            encoded["offset_mapping"] = rows if old and isinstance(old[0], list) else rows[0]
        else:
            encoded["offset_mapping"] = np.asarray(rows) if isinstance(old, np.ndarray) else old.new_tensor(rows)
    return encoded


def _by_sequence(shifts: Any, words: bool) -> Sequence:
    """Lists what precedes the sequences of a sample, which is a text, a pair, words or a pair of words."""
    first = (shifts or [0])[0] if words else shifts
    return shifts if isinstance(first, (list, tuple)) else (shifts,)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
