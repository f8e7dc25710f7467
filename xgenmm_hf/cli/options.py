"""Options that several verbs share, each declared once; nothing heavy is imported."""

from typing import Annotated, Literal

from typer import Argument, Option


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ImageModeName = Literal["anyres", "none", "pad"]

Model = Annotated[
    str, Option(help="Checkpoint folder, adapter folder or Hub repository.", show_default="the embedded tiny model")
]
NewFolder = Annotated[str, Argument(help="Folder to create; must be new or empty.")]
ComputeDtype = Annotated[Dtype, Option(help="Dtype to compute in; auto: see xgenmm info.")]
Device = Annotated[str, Option(help="A torch device such as cpu or cuda:0, or auto.")]
LoadIn = Annotated[
    Literal["4bit", "8bit"] | None,
    Option(help="Load the decoder in so many bits (bitsandbytes).", show_default="whole"),
]
Images = Annotated[ImageModeName | None, Option(help="How images are cut.", show_default="the checkpoint's")]
AnswerTokens = Annotated[int, Option(min=1, help="Upper limit of the answer's length in tokens.")]
System = Annotated[
    str | None,
    Option(
        help="Text of a system turn; 'none': no system turn; 'released': the one of the released instruct models.",
        show_default="the checkpoint's own",
    ),
]
Temperature = Annotated[float, Option(min=0, help="0: the most likely answer; above: a drawn one.")]
TopP = Annotated[float, Option(min=0, max=1, help="Draw from the likeliest tokens that together reach this.")]
Seed = Annotated[int | None, Option(help="Seed of drawn answers.", show_default="none")]
Stop = Annotated[list[str] | None, Option(help="End the answer before this text; repeat it for several.")]
KeptMib = Annotated[int, Option(min=0, help="MiB of images' tokens kept for when they come again; 0: none.")]
AllowRemote = Annotated[bool, Option(help="Fetch images at http and https addresses.")]
ShardSize = Annotated[str, Option(metavar="SIZE", help="Largest weight file.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object.")]
