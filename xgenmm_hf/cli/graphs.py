"""``xgenmm graphs``: a checkpoint as two `torch.export` graphs."""

from pathlib import Path
from typing import Annotated

import typer

from xgenmm_hf.cli import options
from xgenmm_hf.cli.convert import readable


def graphs(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub repository.")],
    out: options.NewFolder,
    context: Annotated[
        int | None,
        typer.Option(help="Longest prompt with its answer, in tokens.", show_default="the model's context"),
    ] = None,
    dtype: options.ComputeDtype = options.Dtype.auto,
) -> None:
    """Write torch.export graphs of the vision part and of the language model."""
    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.graphs.tracing import export_graphs
    from xgenmm_hf.inference.source import is_local, resolve_model

    if is_local(resolve_model(model)):
        hide_loading_bars()
    facts = export_graphs(model, out, context=context, dtype=dtype.value)
    sizes = ", ".join(f"{name} {readable((Path(out) / name).stat().st_size)}" for name in ("vision.pt2", "text.pt2"))
    print(f"{out}: {sizes}; context {facts['cache']['context']}, {facts['dtype']}")
