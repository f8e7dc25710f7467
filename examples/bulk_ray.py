"""Answers about many images with Ray Data: one actor per GPU, paths in, texts out.

    pip install "ray[data]"
    python examples/bulk_ray.py FOLDER OUT [--model PATH] [--prompt TEXT] [--actors 1] [--gpus-per-actor 0]

OUT is a folder of Parquet files with the columns image, text and error.
"""

import argparse
from pathlib import Path

import ray

from xgenmm_hf import TINY_MODEL, BulkGenerator


def main() -> None:
    """Answers about the images of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=TINY_MODEL)
    parser.add_argument("--prompt", default="Describe the image.")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus-per-actor", type=float, default=0)
    options = parser.parse_args()
    paths = sorted(str(path.absolute()) for path in options.folder.rglob("*") if path.suffix in (".png", ".jpg"))
    rows = ray.data.from_items([{"image": path} for path in paths])
    answers = rows.map_batches(
        BulkGenerator,
        fn_constructor_args=(options.model, options.prompt),
        fn_constructor_kwargs={"max_new_tokens": options.max_new_tokens},
        batch_size=options.batch_size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_gpus=options.gpus_per_actor,
    )
    answers.write_parquet(str(options.out.absolute()))
    print(f"{options.out}: {len(paths)} images")


if __name__ == "__main__":
    main()
