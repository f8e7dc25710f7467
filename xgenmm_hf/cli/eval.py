"""``xgenmm eval``: how well a model answers the questions of local files."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.convert import Dtype, ImageModeChoice


if TYPE_CHECKING:
    from xgenmm_hf.evaluation.samples import Task

# As many problems as fit a screen; the report has all.
SHOWN_PROBLEMS = 5


class Form(str, Enum):
    """Forms of prompts."""

    chat = "chat"
    base = "base"


# The options of the verb, in the order in which help shows them.
Kind = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help="What the files are: vqav2, textvqa, docvqa, coco_captions, pope, vlguard, multi_image or exact.",
    ),
]
Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="The task's files, in the data set's format.")]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="DIR", help="Where answers and results go; a stopped run goes on.")
]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder or Hub repository.", show_default="the embedded tiny model")
]
Images = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of the images; default: that of the first file.")
]
Name = Annotated[str | None, typer.Option(help="What reports call the task; default: its kind.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts computed at a time; changes no answer.")]
AnswerTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer; default: 32 (questions), 64 (captions), 256 (chats).")
]
PromptForm = Annotated[
    Form | None, typer.Option(help="Prompts of instruct (chat) or base models; default: base with --shots.")
]
Suffix = Annotated[
    str | None, typer.Option(help="Text behind each question in chats; default: asks short answers to be short.")
]
Shots = Annotated[int, typer.Option(min=0, help="Examples in the prompt.")]
Support = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="Where examples come from (repeat it); default: the task's other samples."),
]
SupportImages = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of the support's images; default: as --images.")
]
Retrieval = Annotated[
    bool, typer.Option("--retrieval", help="Take the examples with the nearest images, not random ones.")
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Ask only the first N samples.")]
Seed = Annotated[int, typer.Option(help="Seed of the choice of examples.")]
ImageMode = Annotated[ImageModeChoice | None, typer.Option(help="Image mode; default: the checkpoint's.")]
KeptMib = Annotated[
    int,
    typer.Option(min=0, help="MiB of images' tokens kept, where many questions are about one image; 0: none."),
]
ComputeDtype = Annotated[Dtype, typer.Option(help="Dtype to compute in; auto: see xgenmm info.")]
Device = Annotated[str, typer.Option(help="A torch device such as cpu or cuda:0, or auto.")]
Html = Annotated[int, typer.Option(min=0, metavar="N", help="Write report.html with N samples to look at.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def evaluate(
    kind: Kind,
    files: Files,
    output: Output,
    model: Model = TINY_MODEL,
    images: Images = None,
    name: Name = None,
    batch_size: BatchSize = 8,
    max_new_tokens: AnswerTokens = None,
    form: PromptForm = None,
    suffix: Suffix = None,
    shots: Shots = 0,
    support: Support = None,
    support_images: SupportImages = None,
    retrieval: Retrieval = False,
    limit: Limit = None,
    seed: Seed = 0,
    image_mode: ImageMode = None,
    kept_mib: KeptMib = 0,
    dtype: ComputeDtype = Dtype.auto,
    device: Device = "auto",
    html: Html = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how well a model answers: questions, captions, probes, chats.

    Several devices share the work with: accelerate launch -m xgenmm_hf.evaluation KIND FILE... -o DIR
    """
    from xgenmm_hf.evaluation.runner import Settings
    from xgenmm_hf.inference.source import is_local, resolve_model

    # Cheap checks first: a wrong path should not wait for torch to load.
    source = resolve_model(model)
    form_name, mode_name = (None if choice is None else choice.value for choice in (form, image_mode))
    settings = Settings(
        batch_size, max_new_tokens, form_name, suffix, shots, retrieval, seed, limit, mode_name, kept_mib
    )
    task, examples = load_tasks(kind, files, images, name, support, support_images or images, shots)

    from xgenmm_hf.cli.console import hide_loading_bars
    from xgenmm_hf.evaluation.pipeline import evaluate_task
    from xgenmm_hf.evaluation.share import current_share
    from xgenmm_hf.inference.loading import load

    if is_local(source):
        hide_loading_bars()
    share = current_share(device)
    loaded = load(source, dtype=dtype.value, device=share.device)
    with asking_bar(shown=share.is_first) as progress:
        result = evaluate_task(
            loaded,
            task,
            Path(output),
            settings,
            source=source,
            files=files,
            support=examples,
            share=share,
            progress=progress,
            html=html,
        )
    if result is not None:
        print(as_object(result, output) if as_json else "\n".join(render(result, output)))


def load_tasks(
    kind: str,
    files: list[str],
    images: str | None,
    name: str | None,
    support: list[str] | None,
    support_images: str | None,
    shots: int,
) -> "tuple[Task, Task | None]":
    """Reads the task, and what its examples come from.

    Args:
        kind: What the files are.
        files: The task's files.
        images: Folder of its images.
        name: What reports call it.
        support: Files of the examples, of the same kind.
        support_images: Folder of their images.
        shots: How many examples a prompt has.

    Returns:
        The task and the support, None if there are no files of it.

    Raises:
        ValueError: If a file cannot be read as a whole, or there is a support that nobody looks at.
    """
    from xgenmm_hf.evaluation.tasks import load_task

    if support and not shots:
        raise ValueError("--support holds examples for the prompt, but --shots is 0: ask for some, such as --shots 4.")
    task = load_task(kind, files, images=images, name=name)
    return task, load_task(kind, support, images=support_images, name="support") if support else None


def as_object(result: dict[str, Any], output: str) -> str:
    """Returns what a program reads: the scores and where the rest is."""
    parts = {part: result[part] for part in ("task", "checkpoint", "counts", "scores", "by_category")}
    return json.dumps({**parts, "output": output}, ensure_ascii=False)


def render(result: dict[str, Any], output: str) -> Iterator[str]:
    """Yields the lines a person reads.

    Args:
        result: What `evaluate_task` returned.
        output: The folder that holds it.

    Yields:
        Lines without their newline.
    """
    from xgenmm_hf.evaluation.results import published_rows, show

    counts, problems = result["counts"], result["problems"]
    resumed = f", {counts['resumed']:,} of them answered before" if counts["resumed"] else ""
    yield f"{result['task']['name']}: {counts['evaluated']:,} samples{resumed}; {counts['problems']:,} problems"
    for measure, value in result["scores"].items():
        yield f"  {measure:<24}{show(value):>10}"
    for measure, model, number, _, source in published_rows(result):
        yield f"  {measure + ' published':<24}{number:>10}  {model} ({source})"
    if problems:
        yield f"rows that do not count{' (the first ones)' if len(problems) > SHOWN_PROBLEMS else ''}:"
    for problem in problems[:SHOWN_PROBLEMS]:
        yield f"  {problem['source']}, {problem['where']}: {problem['reason']}"
    yield f"results.json and results.md are in {output}"


@contextmanager
def asking_bar(shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar of answered samples on stderr, where that is a terminal.

    Args:
        shown: Whether this process may show one.

    Yields:
        What to call with samples done and samples to do.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and sys.stderr.isatty())) as bar:
        task = bar.add_task("asking", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
