"""``xgenmm ask``: a question about images, the answer streamed as it is generated."""

import json
import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.convert import Dtype


if TYPE_CHECKING:
    from PIL import Image

DEFAULT_PROMPT = "Describe this image."
SystemTurn = Annotated[
    str | None,
    typer.Option(
        help="Text of a system turn; 'none': no system turn; 'released': the one of the released instruct models.",
        show_default="the checkpoint's own",
    ),
]


Temperature = Annotated[float, typer.Option(min=0, help="0: the most likely answer; above: a drawn one.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Draw from the likeliest tokens that together reach this.")]
Seed = Annotated[int | None, typer.Option(help="Seed of drawn answers.", show_default="none")]
Stop = Annotated[list[str] | None, typer.Option(help="End the answer before this text; repeat it for several.")]


class ImageMode(str, Enum):
    """Modes of the image processor."""

    anyres = "anyres"
    none = "none"
    pad = "pad"


def ask(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE...", help="Images in the order the question counts them; - reads stdin."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The question.", show_default=DEFAULT_PROMPT)
    ] = None,
    model: Annotated[
        str, typer.Option(help="Checkpoint folder or Hub repository.", show_default="the embedded tiny model")
    ] = TINY_MODEL,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Upper limit of the answer's length in tokens.")] = 512,
    system: SystemTurn = None,
    shots: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Examples for a base model: JSON lines {"image": PATH, "text": TEXT}.'),
    ] = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    image_mode: Annotated[
        ImageMode | None, typer.Option(help="How images are cut.", show_default="the checkpoint's")
    ] = None,
    allow_remote: Annotated[bool, typer.Option(help="Fetch images at http and https addresses.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Dtype to compute in; auto: see xgenmm info.")] = Dtype.auto,
    device: Annotated[str, typer.Option(help="A torch device such as cpu or cuda:0, or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of streaming.")] = False,
) -> None:
    """Ask a model about one or several images."""
    from xgenmm_hf.inference.source import is_local, resolve_model

    # Cheap checks first: a wrong path should not wait for torch to load.
    opened = [open_argument(path, prompt, allow_remote) for path in images or []]
    source = resolve_model(model)

    from transformers import set_seed

    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.inference.asking import ask as ask_model
    from xgenmm_hf.inference.loading import load
    from xgenmm_hf.inference.prompts import is_base, read_shots, system_turn

    examples = read_shots(shots) if shots is not None else []
    if is_local(source):
        hide_loading_bars()
    loaded = load(source, dtype=dtype.value, device=device)
    if prompt is None:
        prompt = "" if is_base(loaded.processor) else DEFAULT_PROMPT
    if seed is not None:
        set_seed(seed)
    drawn = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {}
    turn = system_turn(system)
    answer = ask_model(
        loaded,
        opened,
        prompt,
        system=turn,
        shots=examples,
        max_new_tokens=max_new_tokens,
        on_text=None if as_json else print_piece,
        image_mode=None if image_mode is None else image_mode.value,
        stop=stop or (),
        **drawn,
    )
    if as_json:
        record = {"model": source, "images": images or [], "prompt": prompt, "system": turn, **asdict(answer)}
        print(json.dumps(record, ensure_ascii=False))
    else:
        print()


def open_argument(path: str, prompt: str | None, allow_remote: bool) -> "Image.Image":
    """Opens an image that the command line names."""
    from xgenmm_hf.modeling.images_xgenmm import ADDRESS, read_image

    if path == "-":
        return read_image(sys.stdin.buffer.read(), "on stdin")
    if ADDRESS.match(path) and not allow_remote:
        raise ValueError(f"{path:.80} is an address: pass --allow-remote to fetch it, or download it.")
    try:
        return read_image(path, allow_remote=allow_remote)
    except ValueError:
        if prompt is None and " " in path.strip() and not Path(path).exists():
            raise ValueError(f'{path:.80} is no image: write a question as --prompt (-p) "{path:.40}".') from None
        raise


def print_piece(text: str) -> None:
    """Prints a piece of the answer at once."""
    print(text, end="", flush=True)
