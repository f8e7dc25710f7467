"""Options that several verbs share, each declared once; nothing heavy is imported."""

from enum import Enum
from typing import Annotated

import typer


Dtype = Enum("Dtype", {"auto": "auto", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}, type=str)
ImageMode = Enum("ImageMode", {"anyres": "anyres", "none": "none", "pad": "pad"}, type=str)
LoadBits = Enum("LoadBits", {"4bit": "4bit", "8bit": "8bit"}, type=str)

Model = Annotated[
    str,
    typer.Option(help="Checkpoint folder, adapter folder or Hub repository.", show_default="the embedded tiny model"),
]
NewFolder = Annotated[str, typer.Argument(help="Folder to make; must not exist or be empty.")]
ComputeDtype = Annotated[Dtype, typer.Option(help="Dtype to compute in; auto: see xgenmm info.")]
Device = Annotated[str, typer.Option(help="A torch device such as cpu or cuda:0, or auto.")]
LoadIn = Annotated[
    LoadBits | None, typer.Option(help="Load the decoder in so many bits (bitsandbytes).", show_default="whole")
]
Images = Annotated[ImageMode | None, typer.Option(help="How images are cut.", show_default="the checkpoint's")]
AnswerTokens = Annotated[int, typer.Option(min=1, help="Upper limit of the answer's length in tokens.")]
System = Annotated[
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
KeptMib = Annotated[int, typer.Option(min=0, help="MiB of images' tokens kept for when they come again; 0: none.")]
AllowRemote = Annotated[bool, typer.Option(help="Fetch images at http and https addresses.")]
ShardSize = Annotated[str, typer.Option(metavar="SIZE", help="Largest weight file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def value_of(choice: Enum | None) -> str | None:
    """Returns the text of a choice."""
    return None if choice is None else choice.value
