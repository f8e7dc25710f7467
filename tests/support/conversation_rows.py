"""A small processor, random training rows, and a slow way to encode them that shares nothing with the collators."""

import json
import re
from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from xgenmm_hf import XGenMMImageProcessor, XGenMMProcessor
from xgenmm_hf.conversion.tokenizer import build_tokenizer


IGNORE = -100
TOKENS = Path(__file__).resolve().parents[1] / "fixtures" / "tokens" / "source"
# Tiles of 8 pixels: sizes (height, width) that give 3, 3, 5, 4 and 4 tiles.
SIZES = [(16, 8), (8, 16), (16, 16), (8, 24), (24, 8)]
# The turn that the template puts where a conversation has no system turn of its own.
RELEASED_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
WORDS = ["red", " square", "what is in the image?", "left of", "Zürich", "👩‍👧", "日本語", "3.14", "isn't", "a", "."]
BREAKS = ["\n", "\n\n", " ", "   ", "\t", "\r\n", "\u00a0", "\u3000", "\x85", "\x1c", "▁", "", "\x00"]
SPELLED = ["<|end|>", "<image>", "<|assistant|>\n", "<|user|>", "<image placeholder>", "<|endofchunk|>", "<pad>"]
SPELLED += ["<|system|> ", "<|endoftext|>", "</s>", "<s>", "<|end", "|>", "<", "<image", "age>", "<|e", "nd|>"]


@cache
def small_processor() -> XGenMMProcessor:
    """Returns a processor with 8-pixel tiles of 3 tokens and the small tokenizer in the original's form."""
    return XGenMMProcessor(XGenMMImageProcessor(size=8), build_tokenizer(TOKENS), num_latents=3)


def image(index: int) -> Image.Image:
    """Returns a small image; equal indices give equal images."""
    height, width = SIZES[index % len(SIZES)]
    return Image.new("RGB", (width, height), (index * 37 % 256, index * 91 % 256, 80))


def texts(spelled: bool = True) -> st.SearchStrategy[str]:
    """Returns texts of words, breaks and any characters, and where wanted of control tokens or parts of them."""
    pieces = WORDS + BREAKS + (SPELLED if spelled else [])
    # The two noncharacters of the escape mark are removed from every text.
    anything = st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1")
    return st.lists(st.one_of(st.sampled_from(pieces), st.text(anything, max_size=3)), max_size=6).map("".join)


@st.composite
def conversations(draw, spelled: bool = True, in_answers: bool = True) -> dict:
    """Draws a row of `messages`: system turns, empty answers, images in any turn, odd turn orders."""
    images: list[Image.Image] = []

    def content(may_show: bool) -> list[dict]:
        parts = []
        for _ in range(draw(st.integers(0, 3))):
            if may_show and draw(st.integers(0, 2)) == 0:
                images.append(image(draw(st.integers(0, 9))))
                parts.append({"type": "image", "text": None})
            else:
                parts.append({"type": "text", "text": draw(texts(spelled))})
        return parts

    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": content(False)})
    for role in draw(st.lists(st.sampled_from(["user", "assistant", "assistant"]), min_size=1, max_size=5)):
        messages.append({"role": role, "content": content(role == "user" or in_answers)})
    return {"id": str(draw(st.integers(0, 99))), "source": "drawn", "messages": messages, "images": images}


def with_images(row: dict) -> list[dict]:
    """Returns a row's messages with the images in their parts, as `apply_chat_template` takes them."""
    remaining = iter(row["images"])
    return [
        {
            **message,
            "content": [
                {"type": "image", "image": next(remaining)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in row["messages"]
    ]


@cache
def plain_tokenizer() -> Tokenizer:
    """Returns the small processor's tokenizer without any added token: it reads every text as plain text."""
    fields = json.loads(small_processor().tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**fields, "added_tokens": [], "padding": None, "truncation": None}))


class SlowEncoder:
    """Encodes a row token by token; every token is (id, is target, number of its image or None)."""

    def __init__(self, row: dict):
        """Writes the row down as control tokens, images and plain texts."""
        self.vocabulary = small_processor().tokenizer.get_vocab()
        self.tokens: list[tuple[int, bool, int | None]] = []
        self.answers: list[str] = []
        self._plain(" ", False)
        self.remaining = iter(enumerate(row["images"]))
        if row["messages"][0]["role"] != "system":
            self._turn("system", [{"type": "text", "text": RELEASED_SYSTEM}])
        for message in row["messages"]:
            # The template leaves an empty system turn out.
            if message["role"] != "system" or any(part["text"] for part in message["content"]):
                self._turn(message["role"], message["content"])

    def _turn(self, role: str, parts: list[dict]) -> None:
        """Writes one turn: a control token swallows the white space behind it."""
        target = role == "assistant"
        self._control(f"<|{role}|>", False)
        text, after_control, answer = "", True, ""
        for part in [*parts, {"type": "end"}]:
            if part["type"] == "text":
                text += part["text"].replace("▁", " ")
                continue
            text = re.sub(r"^\s+", "", text) if after_control else text
            self._plain(text, target)
            answer += text
            if part["type"] == "image":
                self._image()
                text, after_control = "\n", False
        self._control("<|end|>", target)
        if target:
            self.answers.append(answer)

    def _plain(self, text: str, target: bool) -> None:
        self.tokens += [(index, target, None) for index in plain_tokenizer().encode(text).ids]

    def _control(self, token: str, target: bool) -> None:
        self.tokens.append((self.vocabulary[token], target, None))

    def _image(self) -> None:
        number, image = next(self.remaining)
        tiles = 1 + max(image.height // 8, 1) * max(image.width // 8, 1)
        self.tokens += [(self.vocabulary["<image>"], False, number)] * (3 * tiles)

    def cut(self, max_length: int) -> list[tuple[int, bool, int | None]]:
        """Returns the tokens that are left at a length, found by trying."""
        kept = self.tokens[:max_length]
        gone = {number for _, _, number in self.tokens[max_length:]} - {None}
        while any(number in gone for _, _, number in kept):
            kept = kept[:-1]
        return kept


def ids_and_labels(tokens: list[tuple[int, bool, int | None]]) -> tuple[list[int], list[int]]:
    """Returns ids and labels of the slow encoder's tokens."""
    return [index for index, _, _ in tokens], [index if target else IGNORE for index, target, _ in tokens]
