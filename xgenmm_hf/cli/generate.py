"""``xgenmm generate``: one prompt about every image of a folder, a data file, an archive or a data set."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import hide_loading_bars
from xgenmm_hf.cli.errors import debugging


def generate(
    source: Annotated[str, Argument(metavar="INPUT", help="Folder of images, data file, .tar or data set.")],
    prompt: Annotated[str, Option("--prompt", "-p", help="The question about each row's images.")],
    out: Annotated[Path, Option("--out", "-o", metavar="OUT.jsonl", help="File to make; one line per row.")],
    model: options.Model = TINY_MODEL,
    system: options.System = None,
    max_new_tokens: options.AnswerTokens = 128,
    batch_size: Annotated[int, Option(min=1, help="Rows answered together.")] = 8,
    shard: Annotated[str | None, Option(metavar="3/8", help="Share of rows.", show_default="torchrun's rank")] = None,
    engine: Annotated[Literal["transformers", "vllm"], Option(help="What answers.")] = "transformers",
    workers: Annotated[int, Option(min=1, help="Threads that read and cut images.")] = 2,
    image_root: Annotated[Path | None, Option(help="Folder of files' paths.", show_default="each file's own")] = None,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Answer a prompt about every image; stopped runs resume when started again."""
    from tqdm import tqdm

    from xgenmm_hf.bulk.engines import BulkGenerator
    from xgenmm_hf.bulk.rows import count_rows
    from xgenmm_hf.bulk.running import generate as run
    from xgenmm_hf.inference.prompts import system_turn

    number, count = parse_shard(shard)
    if device == "auto" and "LOCAL_RANK" in os.environ:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "auto"
    if not debugging():
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    generator = BulkGenerator(
        model,
        prompt,
        engine=engine,
        system=system_turn(system),
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
    )
    hide_loading_bars()
    rows = count_rows(source)
    total = None if rows is None else -(-rows // count)
    with tqdm(total=total, unit=" rows", mininterval=0.5 if sys.stderr.isatty() else 30, file=sys.stderr) as bar:
        result = run(
            source,
            out,
            generator,
            batch_size=batch_size,
            shard=(number, count),
            workers=workers,
            image_root=image_root,
            on_rows=bar.update,
        )
    told = f"{result.rows} rows, {result.resumed} of them by an earlier run, {result.errors} new errors"
    print(f"{result.output}: {told}" + ("" if result.merged else "; other shards are not complete"))


def parse_shard(shard: str | None) -> tuple[int, int]:
    """Reads a share such as ``3/8``, or takes torchrun's."""
    if shard is None:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard is {shard!r}; write for example 3/8: the third of eight shares.")
    return int(number) - 1, int(count)
