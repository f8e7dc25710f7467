"""``xgenmm convert``: an original checkpoint becomes a folder of this package's layout."""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import progress_bar
from xgenmm_hf.cli.errors import cleaning_up_on_sigterm


if TYPE_CHECKING:
    from xgenmm_hf.conversion.writer import Progress


def convert(
    source: Annotated[str, Argument(help="Folder, weight file or Hub repo id of an original checkpoint.")],
    out: options.NewFolder,
    vision_config: Annotated[
        str | None, Option(metavar="JSON", help="File that describes a tower other than SigLIP so400m.")
    ] = None,
    vision_encoder: Annotated[
        str | None, Option(metavar="PATH", help="Folder or repo id of the tower, for checkpoints without it.")
    ] = None,
    config: Annotated[str | None, Option(metavar="JSON", help="config.json, if not next to the weights.")] = None,
    tokenizer: Annotated[str | None, Option(metavar="PATH", help="Tokenizer's folder or repo id, likewise.")] = None,
    dtype: Annotated[options.Dtype, Option(help="Dtype to write; auto keeps each tensor's.")] = "auto",
    image_mode: Annotated[
        options.ImageModeName | None, Option(help="How images are cut; default: as its files say.")
    ] = None,
    max_shard_size: options.ShardSize = "5GB",
) -> None:
    """Convert an original checkpoint to this package's layout."""
    given = locals()
    from rich.filesize import decimal

    from xgenmm_hf.conversion.convert import convert_checkpoint

    with cleaning_up_on_sigterm(), bytes_bar() as progress:
        result = convert_checkpoint(**given, progress=progress)
    print(
        f"{result.folder}: {result.num_tensors} tensors, {result.num_parameters:,} parameters, {result.dtype}, "
        f"{decimal(result.num_bytes)} in {len(result.shards)} file(s), image mode {result.image_mode}"
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


def bytes_bar() -> "AbstractContextManager[Progress]":
    """Shows a bar of bytes written; yields a function of a file's name, bytes written and bytes to write."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return progress_bar("reading", *columns)
