"""``xgenmm convert``: an original checkpoint becomes a folder of this package's layout."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from xgenmm_hf.errors import cleaning_up_on_sigterm


if TYPE_CHECKING:
    from xgenmm_hf.conversion.writer import Progress


class Dtype(str, Enum):
    """Dtypes that weights can be written in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class ImageModeChoice(str, Enum):
    """How a checkpoint cuts images."""

    anyres = "anyres"
    none = "none"
    pad = "pad"


def convert(
    source: Annotated[str, typer.Argument(help="Folder, weight file or Hub repo id of an original checkpoint.")],
    out: Annotated[str, typer.Argument(help="Folder to make; must not exist or be empty.")],
    vision_config: Annotated[
        str | None, typer.Option(metavar="JSON", help="File that describes a tower other than SigLIP so400m.")
    ] = None,
    vision_encoder: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder or repo id of the tower, for checkpoints without it.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="JSON", help="The original config.json, where it is not beside the weights.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder or repo id with the tokenizer files, likewise.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype to write; auto keeps each tensor's.")] = Dtype.auto,
    image_mode: Annotated[
        ImageModeChoice | None, typer.Option(help="Tiles (anyres) or one tile (none, pad); default: as its files say.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest weight file.")] = "5GB",
) -> None:
    """Convert an original checkpoint to this package's layout."""
    from xgenmm_hf.conversion.convert import convert_checkpoint

    with cleaning_up_on_sigterm(), progress_bar() as progress:
        result = convert_checkpoint(
            source,
            out,
            vision_config=vision_config,
            vision_encoder=vision_encoder,
            config=config,
            tokenizer=tokenizer,
            dtype=dtype.value,
            image_mode=None if image_mode is None else image_mode.value,
            max_shard_size=max_shard_size,
            progress=progress,
        )
    print(
        f"{result.folder}: {result.num_tensors} tensors, {result.num_parameters:,} parameters, {result.dtype}, "
        f"{readable(result.num_bytes)} in {len(result.shards)} file(s), image mode {result.image_mode}"
    )
    if result.dropped:
        print(f"left out {len(result.dropped)} of {result.num_source_tensors} source tensors that no feature needs:")
        print("\n".join(f"  {name}" for name in result.dropped))
    if result.skipped:
        print(f"skipped {len(result.skipped)} tensors of the vision encoder's folder that are not the tower's")
    show_notes(result.notes)


def show_notes(notes: tuple[str, ...]) -> None:
    """Prints what a user should read, on stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def readable(num_bytes: int) -> str:
    """Returns a size for people, in decimal units."""
    from rich.filesize import decimal

    return decimal(num_bytes)


@contextmanager
def progress_bar() -> "Iterator[Progress]":
    """Shows a bar of bytes written on stderr, where that is a terminal.

    Yields:
        What to call with a file's name, bytes written and bytes to write.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)

        def report(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        yield report
