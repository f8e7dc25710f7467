"""Measures what bulk inference on this machine costs and gains, in one run: python tests/benchmarks/bulk_gain.py.

Prints one JSON object: milliseconds of one CPU thread to read and cut an image, rows per second of each batch size
as a ratio to the first one, and how many answers differ from those of the first. The images are photograph-sized. The
clock is the CPU time of the one thread, and on a GPU the wall's.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.bulk.engines import BulkGenerator
from xgenmm_hf.bulk.rows import BulkRow
from xgenmm_hf.data.image_refs import image_ref


def make_images(folder: Path, count: int) -> list[Path]:
    """Writes JPEG files of 300 to 900 pixels per side: gradients with noise."""
    paths = []
    for number in range(count):
        source = random.Random(number)
        size = (source.randint(300, 900), source.randint(300, 900))
        noise = Image.effect_noise(size, source.randint(10, 90))
        image = Image.merge("RGB", (noise, Image.linear_gradient("L").resize(size), noise.rotate(180)))
        paths.append(folder / f"{number}.jpg")
        image.save(paths[-1], quality=90)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=TINY_MODEL)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {"max_new_tokens": options.max_new_tokens, "dtype": options.dtype, "device": options.device}
    generator = BulkGenerator(options.model, "Describe the image.", **given)
    with tempfile.TemporaryDirectory() as name:
        rows = [BulkRow(path.name, (image_ref(path),)) for path in make_images(Path(name), options.images)]
        generator.answer(generator.prepare(rows[:1]))
        started = time.process_time()
        singles = [generator.prepare([row]) for row in rows]
        report = {"prepare_ms_per_image": round(1e3 * (time.process_time() - started) / len(rows), 1)}
        del singles
        clock = time.process_time if generator.loaded.parts.model.device.type == "cpu" else time.perf_counter
        alone: list[str | None] = []
        first = 0.0
        for size in options.batch_sizes:
            batches = [generator.prepare(rows[start : start + size]) for start in range(0, len(rows), size)]
            started = clock()
            texts = [answer.text for batch in batches for answer in generator.answer(batch)]
            seconds = clock() - started
            alone, first = (alone, first) if alone else (texts, seconds)
            differ = sum(one != other for one, other in zip(texts, alone, strict=True))
            report[f"batch_{size}"] = {"gain": round(first / seconds, 2), "answers_that_differ": differ}
    print(json.dumps({"model": options.model, "dtype": options.dtype, "images": len(rows), **report}))


if __name__ == "__main__":
    main()
