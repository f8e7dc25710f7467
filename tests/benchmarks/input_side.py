"""Measures the input side of training: rows per second of measuring and of collating, before and after, in one run.

"before" counts offsets with Python calls for every token, measures row by row and collates in the training process;
"after" is the library as it is. Rows are drawn: a JPEG of 640 x 480 and an answer of about 150 words. Run it with

    python tests/benchmarks/input_side.py [--rows 400] [--workers 2]
"""

import argparse
import io
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from xgenmm_hf import TINY_MODEL, XGenMMProcessor
from xgenmm_hf.data.lengths import measure_rows
from xgenmm_hf.modeling.tokenization_xgenmm import PrefixedEncoding
from xgenmm_hf.training.collators import SupervisedCollator


WORDS = ("a", "red", "bus", "waits", "in", "the", "rain", "beside", "two", "people", "under", "one", "umbrella")


def draw_rows(number: int) -> list[dict[str, Any]]:
    """Draws conversations about one image each."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number):
        file = io.BytesIO()
        noise = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(file, "JPEG", quality=90)
        answer = " ".join(rng.choice(WORDS, 150))
        messages = [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        images = [{"bytes": file.getvalue(), "path": None}]
        rows.append({"id": str(index), "source": "drawn", "images": images, "messages": messages})
    return rows


def old_offsets(self: Any) -> list:
    """Counts the spans token by token, as the tokenizer did."""
    encoding = self._encoding
    places = zip(encoding.offsets, encoding.sequence_ids, encoding.word_ids, strict=True)
    return [self._move(span, self._shift_of(sequence, word)) for span, sequence, word in places]


def rows_per_second(rows: list, work: Callable[[], Any]) -> float:
    """Returns the best of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return len(rows) / min(times)


def main() -> None:
    """Prints a row for each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    processor = XGenMMProcessor.from_pretrained(TINY_MODEL)
    rows = draw_rows(options.rows)
    collator = SupervisedCollator(processor)
    texts = [row["messages"][1]["content"][0]["text"] for row in rows]

    def tokenize() -> None:
        for text in texts:
            processor.tokenizer(text, return_offsets_mapping=True)

    def load(workers: int) -> None:
        for _ in DataLoader(rows, batch_size=8, collate_fn=collator, num_workers=workers):
            pass

    old = mock.patch.object(PrefixedEncoding, "offsets", property(old_offsets))
    with old:
        before = [
            rows_per_second(rows, tokenize),
            rows_per_second(rows, lambda: [measure_rows([r], processor) for r in rows]),
        ]
        before.append(rows_per_second(rows, lambda: load(0)))
    after = [rows_per_second(rows, tokenize), rows_per_second(rows, lambda: measure_rows(rows, processor))]
    after.append(rows_per_second(rows, lambda: load(options.workers)))
    print(f"{'rows per second':<48}{'before':>10}{'after':>10}{'ratio':>8}")
    names = ("tokens with their offsets", "lengths, in one process", f"batches, by 0 and by {options.workers} workers")
    for name, one, other in zip(names, before, after, strict=True):
        print(f"{name:<48}{one:>10.0f}{other:>10.0f}{other / one:>8.2f}")


if __name__ == "__main__":
    main()
