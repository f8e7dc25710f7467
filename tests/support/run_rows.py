"""Small training rows of every kind, and the options of runs that fit a test."""

import io
import random
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image

from xgenmm_hf.data.rows import end_of_chunk_part, features_of, image_part, make_row, message, text_part


COLOURS = {"red": (200, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 200)}
ON_CPU = [
    "--use_cpu",
    "true",
    "--dataloader_num_workers",
    "0",
    "--bf16",
    "false",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
    "--logging_steps",
    "1",
]


def png(colour, size=(40, 64)) -> dict:
    """Returns a reference to an image of one colour, (height, width) in pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), colour, dtype=np.uint8)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def chat_rows(count: int, text_only_every: int = 4) -> list[dict]:
    """Returns chats about one-coloured images, every n-th without an image."""
    choice, rows = random.Random(0), []
    for index in range(count):
        name = choice.choice(list(COLOURS))
        if text_only_every and index % text_only_every == text_only_every - 1:
            messages = [
                message("user", "Say a colour " * choice.randint(1, 4)),
                message("assistant", f"It is {name}."),
            ]
            rows.append(make_row(str(index), "texts", messages=messages))
            continue
        messages = [
            message("user", image_part(), "Which colour?"),
            message("assistant", f"It is {name}." * (index % 3 + 1)),
        ]
        rows.append(make_row(str(index), "colours", [png(COLOURS[name], (30 + index, 64))], messages=messages))
    return rows


def pretraining_rows(count: int) -> list[dict]:
    """Returns captions of one-coloured images."""
    names = list(COLOURS)
    return [
        make_row(
            str(index),
            "captions",
            [png(COLOURS[names[index % 3]])],
            content=[image_part(), text_part(f"A {names[index % 3]} wall."), end_of_chunk_part()],
        )
        for index in range(count)
    ]


def preference_rows(count: int) -> list[dict]:
    """Returns preferences between colours."""
    names = list(COLOURS)
    return [
        make_row(
            str(index),
            "preferences",
            [png(COLOURS[names[index % 3]])],
            prompt=[message("user", image_part(), "Which colour?")],
            chosen=[message("assistant", f"It is {names[index % 3]}.")],
            rejected=[message("assistant", f"It is {names[(index + 1) % 3]}.")],
        )
        for index in range(count)
    ]


def save_rows(rows: list[dict], folder: Path, kind: str = "chat") -> Path:
    """Saves rows as a `datasets` folder, which a recipe's `mixture` may name."""
    Dataset.from_list(rows, features=features_of(kind)).save_to_disk(str(folder))
    return folder
