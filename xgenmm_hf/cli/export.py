"""``xgenmm export``: a checkpoint of this package's layout becomes one that the original code reads."""

from typing import Annotated

import typer

from xgenmm_hf.cli.convert import progress_bar, readable


def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub repo id in this package's layout.")],
    out: Annotated[str, typer.Argument(help="Folder to make; must not exist or be empty.")],
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest weight file.")] = "5GB",
) -> None:
    """Write a checkpoint in the original layout."""
    from xgenmm_hf.conversion.export import export_checkpoint

    with progress_bar() as progress:
        result = export_checkpoint(model, out, max_shard_size=max_shard_size, progress=progress)
    rows = "as converted" if result.padding == "kept" else "zeros"
    print(
        f"{result.folder}: {result.num_tensors} tensors, {readable(result.num_bytes)} in {len(result.shards)} "
        f"file(s); unused vocabulary rows: {rows}; the pooling head, which no feature needs, is not written"
    )
