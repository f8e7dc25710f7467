"""``xgenmm info``: what a checkpoint is and what an image costs, without loading its weights."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer import Argument, Option

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options


MODES = {
    "anyres": "any-resolution",
    "none": "one tile, squashed",
    "pad": "one tile, padded to a square",
    None: "mode not stated (convert with --image-mode)",
}


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Reads ``WIDTHxHEIGHT``."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})[xX×]([1-9]\d{0,5})", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT in pixels, such as 1280x720.")
    return int(match[2]), int(match[1])


def info(
    path: Annotated[
        str, Argument(help="Checkpoint folder or Hub repository.", show_default="the embedded one")
    ] = TINY_MODEL,
    image_size: Annotated[str | None, Option(metavar="WxH", help="Also say what an image of this size costs.")] = None,
    provenance: Annotated[bool, Option("--provenance", help="Also digests, versions and device.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show a checkpoint's architecture, sizes and image mode."""
    size = parse_size(image_size)

    from xgenmm_hf.inference.source import resolve_model

    resolve_model(path, ours=False)

    from xgenmm_hf.inference.info import describe

    facts = describe(path, size, with_provenance=provenance)
    print(json.dumps(facts) if as_json else "\n".join(render(facts)))


def render(facts: dict[str, Any]) -> Iterator[str]:
    """Yields the lines a person reads."""
    yield f"model            {facts['model']} ({facts['layout']} layout)"
    for part, fields in facts["architecture"].items():
        shape = ", ".join(f"{name} {value}" for name, value in fields.items() if name != "type")
        yield f"{part:<17}{fields.get('type', 'perceiver')}: {shape}"
    for part, count in facts["parameters"].items():
        yield f"{'parameters' if part == 'vision tower' else '':<17}{part:<15}{count:>15,}"
    yield f"weights          {render_weights(facts['weights'])}"
    yield f"context          {facts['context']} tokens"
    yield f"computes in      {facts['computes_in']}"
    yield from render_images(facts["images"])
    if "provenance" in facts:
        from xgenmm_hf.inference.provenance import provenance_rows

        yield from (f"{name:<17}{value}" for name, value in provenance_rows(facts["provenance"]).items())


def render_weights(weights: dict[str, Any] | None) -> str:
    """Returns one line about the weight files."""
    if weights is None:
        return "on the Hub, not fetched"
    if "problem" in weights:
        return weights["problem"]
    dtypes = ", ".join(f"{count} tensors {dtype}" for dtype, count in sorted(weights["dtypes"].items()))
    return f"{weights['files']} file(s), {weights['bytes'] / 1e6:,.1f} MB, {dtypes}"


def render_images(images: dict[str, Any]) -> Iterator[str]:
    """Yields the lines about image mode and cost."""
    cost = f"{images['tokens_per_tile']} tokens each"
    yield f"images           {MODES[images['mode']]}; tiles of {images['tile']} px, {cost}"
    if images["grids"]:
        grids = ", ".join(f"{width}x{height}" for width, height in images["grids"])
        yield f"                 grids {grids}; sampled {images['sampled']}"
    if "image" in images:
        cost = images["image"]
        yield (
            f"                 a {cost['width']}x{cost['height']} image is {cost['tiles']} tile(s) and costs "
            f"{cost['tokens']} tokens"
        )
