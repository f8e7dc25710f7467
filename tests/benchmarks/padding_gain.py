"""Measures how much of a batch is padding in random order and in batches grouped by modality and length.

Rows are drawn, not read: images of the sizes that instruction data holds (photographs, screens, pages, charts,
thumbnails) on the released grids of 384 pixels and 128 tokens per tile, log-normal texts, text-only rows, and rows
with several images. Run it with

    python tests/benchmarks/padding_gain.py [--rows 40000] [--per-device 8] [--devices 8] [--seed 0]
"""

import argparse
import random
from collections.abc import Callable, Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from xgenmm_hf.data.lengths import RowLength
from xgenmm_hf.modeling.tiling_xgenmm import count_tiles, default_grids
from xgenmm_hf.training.sft import ModalityLengthSampler


TILE, LATENTS, MAX_TEXT = 384, 128, 2048
# (share, width, height): sizes are scaled by up to a fifth and images turned upright or lying at random.
IMAGES = [
    (0.40, 640, 480),
    (0.12, 640, 426),
    (0.08, 1024, 768),
    (0.10, 336, 336),
    (0.08, 1280, 720),
    (0.08, 1700, 2200),
    (0.06, 800, 600),
    (0.05, 512, 512),
    (0.03, 1600, 500),
]
# (share, how many images, median of the text's tokens, spread of its logarithm)
ROWS = [(0.70, 1, 130, 0.9), (0.18, 0, 320, 1.0), (0.08, 2, 180, 0.9), (0.04, 5, 220, 0.9)]


def draw_rows(num_rows: int, seed: int) -> list[RowLength]:
    """Draws the lengths of a mixture."""
    rng = random.Random(seed)
    kinds = rng.choices(ROWS, [kind[0] for kind in ROWS], k=num_rows)
    texts = [min(int(rng.lognormvariate(0, kind[3]) * kind[2]) + 20, MAX_TEXT) for kind in kinds]
    sizes = []
    for share in rng.choices(IMAGES, [image[0] for image in IMAGES], k=sum(kind[1] for kind in kinds)):
        scale = rng.uniform(0.8, 1.2)
        size = [int(share[1] * scale), int(share[2] * scale)]
        sizes.append(size if rng.random() < 0.5 else size[::-1])
    tiles = iter(count_tiles(torch.tensor(sizes), default_grids(TILE), TILE).tolist())
    rows = []
    for kind, text in zip(kinds, texts, strict=True):
        num_tiles = sum(next(tiles) for _ in range(kind[1]))
        rows.append(RowLength(text, num_tiles * LATENTS, num_tiles, ("text", "image", "images")[min(kind[1], 2)]))
    return rows


def orders(rows: list[RowLength], batch_size: int, per_device: int, seed: int) -> Iterator[tuple[str, list[int]]]:
    """Yields the orders that are compared."""
    yield "random", random.Random(seed).sample(range(len(rows)), len(rows))
    lengths = [row.num_tokens for row in rows]
    # The Trainer sorts what one device takes, and knows nothing of the others.
    grouped = LengthGroupedSampler(per_device, lengths=lengths, generator=torch.Generator().manual_seed(seed))
    yield "the Trainer's group_by_length", list(grouped)
    columns = (lengths, [row.modality for row in rows], batch_size, seed)
    yield "by modality", list(ModalityLengthSampler(*columns, num_sorted_batches=1))
    yield "by modality and length", list(ModalityLengthSampler(*columns))


def share_wasted(lengths: list[int], per_step: int, padded: Callable[[list[int]], int]) -> float:
    """Returns the share of computed positions that hold no token."""
    steps = [lengths[start : start + per_step] for start in range(0, len(lengths), per_step)]
    return 1 - sum(lengths) / sum(padded(step) for step in steps)


def main() -> None:
    """Prints a row for each order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("rows", 40_000), ("per-device", 8), ("devices", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    per_device, per_step = options.per_device, options.per_device * options.devices
    rows = draw_rows(options.rows, options.seed)
    mean = sum(row.num_tokens for row in rows) / len(rows)
    print(f"{len(rows)} rows, {mean:.0f} tokens on average, batches of {per_device} on {options.devices} devices")
    print(f"{'order':<32}{'padding':>10}{'padding and waiting':>22}")
    for name, order in orders(rows, per_step, per_device, options.seed):
        lengths = [rows[index].num_tokens for index in order]
        padding = share_wasted(lengths, per_device, lambda batch: len(batch) * max(batch))
        # A step lasts as long as its longest batch: the other devices wait for it.
        waiting = share_wasted(lengths, per_step, lambda step: len(step) * max(step))
        print(f"{name:<32}{padding:>10.1%}{waiting:>22.1%}")


if __name__ == "__main__":
    main()
