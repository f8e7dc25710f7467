"""Chats and captions about drawn pictures, as token ids with targets: what the embedded model learns language from.

A row is made of pieces; a piece is text, one control token or one picture, and counts as a target or not. The ids are
those of the processor (a test compares them), but texts are encoded once and kept: the same few thousand questions
come up again and again.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from xgenmm_hf.data.language import caption
from xgenmm_hf.data.questions import KINDS, Question, ask, ask_several, questions_of_split
from xgenmm_hf.data.render import render
from xgenmm_hf.data.scene import HELD_OUT, LAYOUT_WEIGHTS, Scene, make_scene
from xgenmm_hf.inference.asking import RELEASED_SYSTEM


IGNORE_INDEX = -100
_LONGEST_SIDES = (96, 256)
# Captions have a form of their own: in a chat their many words would outweigh the short answers.
_SHORT = tuple(kind for kind in KINDS if kind != "caption")
_CHECKED_SIDE = 256
_CHECKED_AT_ONCE = 30


@dataclass
class Row:
    """A row in the making: pieces as (text or token, is a target), and the pictures in their order."""

    pieces: list[tuple[str, bool]] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)
    one_tile: bool = False

    def add(self, *texts: str, target: bool = False) -> None:
        """Appends texts or control tokens."""
        self.pieces += [(text, target) for text in texts]


@dataclass(frozen=True)
class Mixture:
    """How often each form of row occurs, in shares that need not add up to one.

    Args:
        chat: several questions about a picture in one chat.
        single: one question about a picture.
        describe: the caption of a picture, as a chat.
        base: captions or answers in the base models' form, one to three examples after one another.
        text: questions about a description in words, without a picture.
    """

    chat: float = 0.0
    single: float = 0.0
    describe: float = 0.0
    base: float = 0.0
    text: float = 0.0


def draw_picture(scene: Scene, rng: random.Random) -> Image.Image:
    """Draws a scene at a random size, often as small as a few patches a shape, rarely larger than its tiles."""
    return render(scene, rng.randint(*_LONGEST_SIDES))


def chat_row(
    turns: Iterable[Question],
    rng: random.Random,
    picture: Image.Image | None = None,
    before: str = "",
    with_picture: bool = False,
    system_share: float = 0.6,
) -> Row:
    """Builds a chat: questions by the user, answers as targets.

    Args:
        turns: the questions with their answers.
        rng: decides whether there is a system turn.
        picture: shown before the first question.
        before: text before the first question.
        with_picture: whether there is a picture although none is given, because its tokens are known.
        system_share: how often there is a system turn.

    Returns:
        The row.
    """
    row = Row(pictures=[] if picture is None else [picture])
    shown = with_picture or picture is not None
    if rng.random() < system_share:
        row.add("<|system|>", RELEASED_SYSTEM, "<|end|>")
    for number, turn in enumerate(turns):
        row.add("<|user|>")
        if number == 0 and shown:
            row.add("<image>")
        opening = "\n" if number == 0 and shown else before if number == 0 else ""
        row.add(f"{opening}{turn.text}", "<|end|>", "<|assistant|>")
        row.add(turn.answer, "<|end|>", target=True)
    return row


def base_row(examples: list[tuple[Scene, Image.Image | None]], rng: random.Random) -> Row:
    """Builds a row in the base models' form: pictures each followed by its text and `<|endofchunk|>`.

    Args:
        examples: scenes with their pictures; None where a picture's tokens are known.
        rng: decides what is said of the pictures.

    Returns:
        The row.
    """
    row = Row(one_tile=rng.random() < 0.5)
    kind = rng.choice(("", "color", "shape", "count", "place", "size"))
    for scene, picture in examples:
        question = ask(scene, kind, rng) if kind else None
        row.add("<image>")
        if question is not None:
            row.add(f"Question: {question.text} Short answer:")
        row.add(f" {question.answer}" if question else caption(scene), "<|endofchunk|>", target=True)
        row.pictures += [] if picture is None else [picture]
    return row


class ChatDataset(Dataset):
    """Rows of a mixture, encoded; item i is row i of the stream."""

    def __init__(
        self, processor: Any, mixture: Mixture, num_rows: int, first_seed: int, split: str, batch_size: int = 32
    ):
        """Sets the stream up.

        Args:
            processor: the embedded model's `XGenMMProcessor`.
            mixture: the shares of the forms.
            num_rows: length of the stream.
            first_seed: seed of its first scene.
            split: `TRAIN` or `HELD_OUT`.
            batch_size: rows that are padded together.
        """
        self.batch_size = batch_size
        self.encoder, self.mixture, self.num_rows = RowEncoder(processor), mixture, num_rows
        self.first_seed, self.split = first_seed, split

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self.num_rows

    def __getitem__(self, index: int) -> dict:
        """Returns `input_ids`, `labels` (L,) and the pictures' inputs."""
        seed = self.first_seed + index
        # Rows of one batch agree in form and layout, so that they are about equally long and little is padded.
        shared = random.Random(f"batch/{self.first_seed}/{index // self.batch_size}")
        return self.encoder(self._make_row(seed, random.Random(f"row/{seed}"), shared))

    def _make_row(self, seed: int, rng: random.Random, shared: random.Random) -> Row:
        """Draws the form of a row and builds it; `shared` decides what the rows of a batch have in common."""
        shares = vars(self.mixture)
        form = shared.choices(list(shares), weights=list(shares.values()))[0]
        layout = shared.choices(list(LAYOUT_WEIGHTS), weights=list(LAYOUT_WEIGHTS.values()))[0]
        num_examples, num_turns = shared.randint(1, 3), shared.randint(6, 14)
        scene = make_scene(4 * seed, self.split, layout)
        if form == "base":
            others = [make_scene(4 * seed + number, self.split, layout) for number in range(1, num_examples)]
            return base_row([(each, draw_picture(each, rng)) for each in (scene, *others)], rng)
        if form == "text":
            return chat_row(ask_several(scene, num_turns, rng, _SHORT), rng, before=f"{caption(scene)} ")
        kinds = ("caption",) if form == "describe" else _SHORT
        turns = ask_several(scene, num_turns if form == "chat" else 1, rng, kinds)
        return chat_row(turns, rng, draw_picture(scene, rng))


class RowEncoder:
    """Turns rows into token ids, targets and tiles."""

    def __init__(self, processor: Any):
        """Takes the processor apart."""
        self.image_processor, self.num_latents = processor.image_processor, processor.num_latents
        self.tokenizer = processor.tokenizer
        self.control = dict(self.tokenizer.get_added_vocab())
        self.image_id = self.control["<image>"]
        self._encode_text = lru_cache(maxsize=1 << 15)(self._encode_new_text)

    def __call__(self, row: Row) -> dict:
        """Encodes a row."""
        inputs = {}
        if row.pictures:
            mode = "none" if row.one_tile else "anyres"
            inputs = dict(self.image_processor(row.pictures, image_aspect_ratio=mode, return_tensors="pt"))
        lengths = (inputs.get("image_num_tiles", torch.zeros(0)) * self.num_latents).tolist()
        return {**self.encode(row, lengths), **inputs}

    def encode(self, row: Row, lengths: list[int]) -> dict:
        """Encodes a row whose pictures take so many tokens each; returns `input_ids` and `labels` (L,)."""
        remaining = iter(lengths)
        # The tokenizer puts a space before a text that does not start with one of the three added tokens.
        starts_with_picture = row.pieces[0][0] == "<image>"
        ids = [] if starts_with_picture else list(self._encode_text(" "))
        labels = [IGNORE_INDEX] * len(ids)
        for text, target in row.pieces:
            if text == "<image>":
                new = [self.image_id] * int(next(remaining))
            else:
                new = [self.control[text]] if text in self.control else self._encode_text(text)
            ids += new
            labels += new if target else [IGNORE_INDEX] * len(new)
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}

    def _encode_new_text(self, text: str) -> list[int]:
        """Encodes a text inside a row, where no space is put before it."""
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


class ChatCollator:
    """Pads rows on the right and puts their tiles one after another."""

    def __init__(self, pad_id: int):
        """Takes the id to pad with."""
        self.pad_id = pad_id

    def __call__(self, rows: list[dict]) -> dict:
        """Returns a batch as the model takes it."""
        pad = torch.nn.utils.rnn.pad_sequence
        batch = {
            "input_ids": pad([row["input_ids"] for row in rows], batch_first=True, padding_value=self.pad_id),
            "labels": pad([row["labels"] for row in rows], batch_first=True, padding_value=IGNORE_INDEX),
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        for name in ("pixel_values", "image_sizes", "image_num_tiles"):
            parts = [row[name] for row in rows if name in row]
            if parts:
                batch[name] = torch.cat(parts)
        return batch


def held_out_accuracy(processor: Any, with_pictures: bool, num_questions: int) -> Callable[[Any], dict[str, float]]:
    """Prepares a quick measurement: how often the model's best guess is right at every token of the answer.

    That is when greedy generation gives the answer; no generation is needed to find out.

    Args:
        processor: the embedded model's `XGenMMProcessor`.
        with_pictures: whether the questions are about pictures or about descriptions in words.
        num_questions: how many held-out questions to ask.

    Returns:
        A function that takes the model and gives the accuracy of each kind of question, and of `all`.
    """
    encoder, collate = RowEncoder(processor), ChatCollator(processor.tokenizer.pad_token_id)
    rows = []
    for scene, question in islice(questions_of_split(HELD_OUT, seed=1), num_questions):
        rng = random.Random(question.text)
        row = (
            chat_row([question], rng, render(scene, _CHECKED_SIDE))
            if with_pictures
            else chat_row([question], rng, before=f"{caption(scene)} ")
        )
        rows.append((question.kind, encoder(row)))
    rows.sort(key=lambda row: len(row[1]["input_ids"]))

    def measure(model: Any) -> dict[str, float]:
        right: dict[str, list[bool]] = {"all": []}
        for start in range(0, len(rows), _CHECKED_AT_ONCE):
            part = rows[start : start + _CHECKED_AT_ONCE]
            batch = collate([row for _, row in part])
            guesses, labels = model(**batch).logits[:, :-1].argmax(-1), batch["labels"][:, 1:]
            for (kind, _), is_right in zip(part, ((guesses == labels) | (labels < 0)).all(1).tolist(), strict=True):
                right["all"].append(is_right)
                right.setdefault(kind, []).append(is_right)
        return {kind: sum(values) / len(values) for kind, values in right.items()}

    return measure
