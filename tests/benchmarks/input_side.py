"""Measures the input side of training in rows per second, with and without the tokens that measured rows keep.

"before" takes the kept tokens away, so that collators make them again. Rows are drawn: an answer of about 150 words,
without an image and with a JPEG of 640 x 480. Both sides run in turn, and each figure is a median. Run it with

    python tests/benchmarks/input_side.py [--rows 400] [--workers 2] [--repeats 3]
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from xgenmm_hf import TINY_MODEL, XGenMMProcessor
from xgenmm_hf.data.lengths import TEXT_COLUMNS, add_lengths
from xgenmm_hf.data.rows import features_of
from xgenmm_hf.training.collators import SupervisedCollator


WORDS = ("a", "red", "bus", "waits", "in", "the", "rain", "beside", "two", "people", "under", "one", "umbrella")


def draw_rows(number: int, with_image: bool) -> datasets.Dataset:
    """Draws conversations about one image each, or about none."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number):
        images, parts = [], [{"type": "text", "text": "What is it?"}]
        if with_image:
            file = io.BytesIO()
            noise = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((640, 480)).save(file, "JPEG", quality=90)
            images = [{"bytes": file.getvalue(), "path": None}]
            parts = [{"type": "image", "text": None}, *parts]
        answer = [{"type": "text", "text": " ".join(rng.choice(WORDS, 150))}]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        rows.append({"id": str(index), "source": "drawn", "images": images, "messages": messages})
    return datasets.Dataset.from_list(rows, features=features_of("chat"))


def seconds(work: Callable[..., Any], *args: Any) -> float:
    """Returns what one call takes."""
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def main() -> None:
    """Prints a row for each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
    collator = SupervisedCollator(processor)

    def load(rows: datasets.Dataset, workers: int) -> None:
        for _ in DataLoader(rows, batch_size=8, collate_fn=collator, num_workers=workers):  # type: ignore[arg-type]
            pass

    def measure(rows: datasets.Dataset) -> datasets.Dataset:
        return add_lengths(rows, processor)

    print(f"load average {os.getloadavg()[0]:.1f}; rows per second:")
    print(f"{'':<44}{'before':>10}{'after':>10}{'ratio':>8}")
    for name, with_image in (("text alone", False), ("with a JPEG of 640 x 480", True)):
        rows = draw_rows(options.rows, with_image)
        after = measure(rows)
        before = after.remove_columns(list(TEXT_COLUMNS))
        print(f"{name + ', measuring':<54}{len(rows) / seconds(measure, rows):>10.0f}")
        for workers in sorted({0, options.workers}):
            pairs = [(seconds(load, before, workers), seconds(load, after, workers)) for _ in range(options.repeats)]
            rates = [len(rows) / statistics.median(column) for column in zip(*pairs, strict=True)]
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"{name + f', {workers} workers':<44}{rates[0]:>10.0f}{rates[1]:>10.0f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
