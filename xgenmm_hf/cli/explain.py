"""``xgenmm explain``: which parts of an image an answer rests on, as an image and as numbers."""

import json
import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import load_model
from xgenmm_hf.conversion.files import replacing


_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def explain(
    image: Annotated[str, Argument(metavar="IMAGE", help="The image.")],
    prompt: Annotated[str, Option("--prompt", "-p", help="The question.")] = "Describe this image.",
    model: options.Model = TINY_MODEL,
    output: Annotated[Path, Option("--output", "-o", help="Where to write the overlay.")] = Path("overlay.png"),
    answer: Annotated[str | None, Option(help="Explain this answer.", show_default="the model's own, greedy")] = None,
    layer: Annotated[
        int | None, Option(help="One layer of the resampler, from 0 (-1: the last).", show_default="rollout over all")
    ] = None,
    text_layer: Annotated[
        int | None, Option(help="One layer of the language model, from 0.", show_default="mean over all")
    ] = None,
    max_new_tokens: options.AnswerTokens = 128,
    system: options.System = None,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    as_json: Annotated[bool, Option("--json", help="Print shares of tiles and patches as JSON.")] = False,
) -> None:
    """Show which parts of an image an answer rests on."""
    from xgenmm_hf.inference.source import resolve_checkpoint
    from xgenmm_hf.modeling.images_xgenmm import read_image

    # Cheap checks first: a wrong path should not wait for torch to load.
    check_output(output)
    opened = read_image(image)
    source = resolve_checkpoint(model)

    from xgenmm_hf.explain.attention import explain_answer
    from xgenmm_hf.explain.overlay import draw_overlay
    from xgenmm_hf.inference.prompts import system_turn

    loaded = load_model(source, dtype, device)
    turn, layers = system_turn(system), {"layer": layer, "text_layer": text_layer}
    found = explain_answer(loaded, opened, prompt, answer=answer, system=turn, max_new_tokens=max_new_tokens, **layers)
    with replacing(output) as draft:
        draw_overlay(opened, found.pixels, found.addresses).save(draft, format=_FORMATS[output.suffix.lower()])
    record = found.as_record()
    if as_json:
        asked = {"model": source, "image": image, "prompt": prompt, "system": turn, **layers}
        print(json.dumps({**asked, "output": os.fspath(output), **record}, ensure_ascii=False))
        return
    print(found.answer)
    for tile in record["tiles"]:
        print(f"{tile['share']:6.1%}  {tile['name']}")
    print(f"{output}: {found.image_share:.1%} of the answer's attention goes to the image")


def check_output(output: Path) -> None:
    """Checks that an image can be written to a path."""
    if output.suffix.lower() not in _FORMATS:
        raise ValueError(f"{output} does not end in {', '.join(_FORMATS)}: give the overlay such a name.")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {output.parent}: make it first.")
    if output.is_dir():
        raise ValueError(f"{output} is a folder: give the name of a file.")
