"""``xgenmm export``: a checkpoint becomes one that the original code reads, an adapter one that vLLM loads."""

from pathlib import Path
from typing import Annotated

from typer import Argument

from xgenmm_hf.cli import options
from xgenmm_hf.cli.convert import bytes_bar, show_notes
from xgenmm_hf.cli.errors import cleaning_up_on_sigterm


def export(
    model: Annotated[
        str, Argument(help="Folder or Hub repo id in this package's layout, or a LoRA adapter's folder.")
    ],
    out: options.NewFolder,
    max_shard_size: options.ShardSize = "5GB",
) -> None:
    """Write a checkpoint in the original layout, or a LoRA adapter in the one that vLLM loads."""
    from rich.filesize import decimal

    from xgenmm_hf.conversion.adapters import ADAPTER_CONFIG, export_adapter
    from xgenmm_hf.conversion.export import export_checkpoint

    if (Path(model) / ADAPTER_CONFIG).is_file():
        print(f"{out}: an adapter for vLLM, of {', '.join(export_adapter(model, out))}")
        return
    with cleaning_up_on_sigterm(), bytes_bar() as progress:
        result = export_checkpoint(model, out, max_shard_size=max_shard_size, progress=progress)
    rows = "as converted" if result.padding == "kept" else "zeros"
    print(
        f"{result.folder}: {result.num_tensors} tensors, {decimal(result.num_bytes)} in {len(result.shards)} "
        f"file(s); unused vocabulary rows: {rows}; the pooling head, which no feature needs, is not written"
    )
    show_notes(result.notes)
