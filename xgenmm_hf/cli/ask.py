"""``xgenmm ask``: a question about images, the answer streamed as it is generated."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import load_model


if TYPE_CHECKING:
    from PIL import Image

DEFAULT_PROMPT = "Describe this image."
ImageArguments = Annotated[
    list[str] | None, Argument(metavar="IMAGE...", help="Images in the order the question counts them; - reads stdin.")
]
Shots = Annotated[
    Path | None, Option(metavar="FILE", help='Examples for a base model: JSON lines {"image": PATH, "text": TEXT}.')
]


def ask(
    images: ImageArguments = None,
    prompt: Annotated[str | None, Option("--prompt", "-p", help="The question.", show_default=DEFAULT_PROMPT)] = None,
    model: options.Model = TINY_MODEL,
    max_new_tokens: options.AnswerTokens = 512,
    system: options.System = None,
    shots: Shots = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    stop: options.Stop = None,
    image_mode: options.Images = None,
    allow_remote: options.AllowRemote = False,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    load_in: options.LoadIn = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask a model about one or several images."""
    from xgenmm_hf.inference.source import resolve_checkpoint

    # Cheap checks first: a wrong path should not wait for torch to load.
    opened = [open_argument(path, prompt, allow_remote) for path in images or []]
    source = resolve_checkpoint(model)

    from xgenmm_hf.inference.asking import ask as ask_model
    from xgenmm_hf.inference.asking import sampling_options
    from xgenmm_hf.inference.prompts import is_base, read_shots, system_turn

    examples = read_shots(shots) if shots is not None else []
    loaded = load_model(source, dtype, device, load_in)
    if prompt is None:
        prompt = "" if is_base(loaded.processor) else DEFAULT_PROMPT
    turn = system_turn(system)
    answer = ask_model(
        loaded,
        opened,
        prompt,
        system=turn,
        shots=examples,
        max_new_tokens=max_new_tokens,
        on_text=None if as_json else partial(print, end="", flush=True),
        image_mode=image_mode,
        stop=stop or (),
        **sampling_options(temperature, top_p, seed),
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
