"""``xgenmm ask``: a question about images, the answer streamed as it is generated."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.convert import Dtype


SystemTurn = Annotated[
    str,
    typer.Option(help="Text of a system turn; 'released': the one that the released instruct models were tuned with."),
]


def ask(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Images, in the order the question counts them.")
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The question.")] = "Describe this image.",
    model: Annotated[
        str, typer.Option(help="Checkpoint folder or Hub repository.", show_default="the embedded tiny model")
    ] = TINY_MODEL,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Upper limit of the answer's length in tokens.")] = 512,
    system: SystemTurn = "none",
    dtype: Annotated[Dtype, typer.Option(help="Dtype to compute in; auto: see xgenmm info.")] = Dtype.auto,
    device: Annotated[str, typer.Option(help="A torch device such as cpu or cuda:0, or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of streaming.")] = False,
) -> None:
    """Ask a model about one or several images."""
    from xgenmm_hf.inference.source import is_local, resolve_model
    from xgenmm_hf.modeling.images_xgenmm import read_image

    # Cheap checks first: a wrong path should not wait for torch to load.
    opened = [read_image(path) for path in images or []]
    source = resolve_model(model)

    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.inference.asking import ask as ask_model
    from xgenmm_hf.inference.asking import system_turn
    from xgenmm_hf.inference.loading import load

    if is_local(source):
        hide_loading_bars()
    loaded = load(source, dtype=dtype.value, device=device)
    turn = system_turn(system)
    answer = ask_model(
        loaded,
        opened,
        prompt,
        system=turn,
        max_new_tokens=max_new_tokens,
        on_text=None if as_json else print_piece,
    )
    if as_json:
        record = {"model": source, "images": images or [], "prompt": prompt, "system": turn, **asdict(answer)}
        print(json.dumps(record, ensure_ascii=False))
    else:
        print()


def print_piece(text: str) -> None:
    """Prints a piece of the answer at once."""
    print(text, end="", flush=True)
