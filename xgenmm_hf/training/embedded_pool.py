"""A pool of pictures whose tokens are computed once, and batches of questions about them.

While the language part learns to look things up, tower and resampler stand still: every picture of the pool is encoded
once and asked about again and again. Most rows are as short as can be, one question about one tile: the few tokens
that tell the places are then a good part of what a question can attend to. In long chats they are lost among the
words, and looking up is learnt many times slower.

Shape legend: a picture has tokens (num_tokens, width); the overview's are the first `NUM_LATENTS`.
"""

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xgenmm_hf.data.questions import KINDS, ask_several
from xgenmm_hf.data.scene import LAYOUT_WEIGHTS, TRAIN, Scene, make_scene
from xgenmm_hf.training.embedded_chats import ChatCollator, Row, RowEncoder, base_row, chat_row, draw_picture
from xgenmm_hf.training.embedded_model import NUM_LATENTS


_AT_ONCE = 32
# What is hardest to look up is asked more often.
_ASKED = (*(kind for kind in KINDS if kind != "caption"), "relation", "relation", "place", "count")


@dataclass(frozen=True)
class Form:
    """A form of batches.

    Args:
        kind: `"chat"`, `"caption"` (a chat that asks for the caption) or `"base"` (the base models' form).
        share: how often it occurs, among shares that need not add up to one.
        rows: rows of a batch.
        turns: fewest and most questions of a chat.
        one_tile: how often the pictures are shown as one tile.
        system: how often a chat has a system turn.
    """

    kind: str
    share: float
    rows: int
    turns: tuple[int, int] = (1, 1)
    one_tile: float = 0.0
    system: float = 0.0


FORMS = {
    "lookups": (
        Form("chat", share=0.7, rows=192, one_tile=1.0),
        Form("chat", share=0.2, rows=48, system=0.5),
        Form("chat", share=0.1, rows=16, turns=(6, 12), system=0.5),
    ),
    "forms": (
        Form("chat", share=0.5, rows=192, one_tile=1.0),
        Form("chat", share=0.2, rows=48, system=0.5),
        Form("chat", share=0.12, rows=16, turns=(6, 12), system=0.5),
        Form("caption", share=0.11, rows=20, one_tile=0.4, system=0.3),
        Form("base", share=0.07, rows=16, one_tile=0.6),
    ),
}


@dataclass(frozen=True)
class Seen:
    """A scene and the tokens of a picture of it, (num_tokens, width) in float16."""

    scene: Scene
    tokens: torch.Tensor


@torch.no_grad()
def encode_pool(model: Any, processor: Any, num_pictures: int, first_seed: int) -> list[Seen]:
    """Draws and encodes the pictures of a pool.

    Args:
        model: the embedded model; its tower and resampler are used as they are.
        processor: its processor.
        num_pictures: how many.
        first_seed: seed of the first.

    Returns:
        The pool, the shortest token lists first.
    """
    pool: list[Seen] = []
    for start in range(0, num_pictures, _AT_ONCE):
        scenes, pictures = [], []
        for seed in range(first_seed + start, first_seed + min(start + _AT_ONCE, num_pictures)):
            rng = random.Random(f"pool/{seed}")
            layout = rng.choices(list(LAYOUT_WEIGHTS), weights=list(LAYOUT_WEIGHTS.values()))[0]
            scenes.append(make_scene(4 * seed, TRAIN, layout))
            pictures.append(draw_picture(scenes[-1], rng))
        tokens = model.get_image_features(**processor.image_processor(pictures)).pooler_output
        pool += [Seen(scene, picture.half()) for scene, picture in zip(scenes, tokens, strict=True)]
    return sorted(pool, key=lambda seen: len(seen.tokens))


class PoolBatches(Dataset):
    """Batches of questions about a pool; item i is batch i of the stream."""

    def __init__(self, processor: Any, pool: list[Seen], forms: tuple[Form, ...], num_batches: int, first_seed: int):
        """Sets the stream up.

        Args:
            processor: the embedded model's `XGenMMProcessor`.
            pool: as `encode_pool` returns it.
            forms: the forms of batches.
            num_batches: length of the stream.
            first_seed: seed of the first batch.
        """
        self.encoder, self.collate = RowEncoder(processor), ChatCollator(processor.tokenizer.pad_token_id)
        self.pool, self.forms, self.num_batches, self.first_seed = pool, forms, num_batches, first_seed

    def __len__(self) -> int:
        """Returns the number of batches."""
        return self.num_batches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `labels`, `attention_mask` (B, L) and `picture_tokens` (total image tokens, width)."""
        rng = random.Random(f"batch/{self.first_seed + index}")
        form = rng.choices(self.forms, weights=[form.share for form in self.forms])[0]
        one_tile, num_examples, turns = rng.random() < form.one_tile, rng.randint(1, 3), rng.randint(*form.turns)
        rows, tokens = [], []
        for seen in self._pick(form.rows, rng):
            shown = (
                [seen, *(rng.choice(self.pool) for _ in range(num_examples - 1))] if form.kind == "base" else [seen]
            )
            pictures = [each.tokens[:NUM_LATENTS] if one_tile else each.tokens for each in shown]
            row = self._make_row(form, [each.scene for each in shown], turns, rng)
            rows.append(self.encoder.encode(row, [len(picture) for picture in pictures]))
            tokens += pictures
        return {**self.collate(rows), "picture_tokens": torch.cat(tokens).float()}

    def _pick(self, count: int, rng: random.Random) -> list[Seen]:
        """Picks pictures with about equally many tokens, so that little is padded."""
        width = min(len(self.pool), 4 * count)
        start = rng.randint(0, len(self.pool) - width)
        return rng.sample(self.pool[start : start + width], min(count, width))

    def _make_row(self, form: Form, scenes: list[Scene], turns: int, rng: random.Random) -> Row:
        if form.kind == "base":
            return base_row([(scene, None) for scene in scenes], rng)
        questions = ask_several(scenes[0], turns, rng, ("caption",) if form.kind == "caption" else _ASKED)
        return chat_row(questions, rng, with_picture=True, system_share=form.system)


class PooledModel(nn.Module):
    """The model as a pool's batches take it: pictures come as tokens.

    Args:
        model: an `XGenMMForConditionalGeneration`.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor,
        picture_tokens: torch.Tensor,
    ) -> Any:
        """Returns the model's output, with the loss; arguments as `PoolBatches` gives them."""
        pictures = BaseModelOutputWithPooling(pooler_output=[picture_tokens])
        return self.model(
            input_ids=input_ids, labels=labels, attention_mask=attention_mask, mm_encoder_outputs={"image": pictures}
        )
