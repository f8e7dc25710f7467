"""``xgenmm eval``: how well a model answers the questions of local files, or a benchmark through its harness.

Several devices share the work with ``accelerate launch -m xgenmm_hf.cli.eval`` or ``torchrun -m xgenmm_hf.cli.eval``.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import load_model, progress_bar, quiet_libraries
from xgenmm_hf.cli.errors import friendly_errors


if TYPE_CHECKING:
    from xgenmm_hf.evaluation.prompting import AskSettings
    from xgenmm_hf.evaluation.samples import Task

# As many problems as fit a screen; the report has all.
SHOWN_PROBLEMS = 5
Form = Enum("Form", {"chat": "chat", "base": "base"}, type=str)
ProtocolName = Enum("ProtocolName", {"xgenmm": "xgenmm", "openflamingo": "openflamingo"}, type=str)
Harness = Enum("Harness", {"vlmevalkit": "vlmevalkit", "lmms_eval": "lmms-eval"}, type=str)
Overlong = Enum("Overlong", {"skip": "skip", "truncate": "truncate"}, type=str)

# The options of the verb, in the order in which help shows them.
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KIND FILE...",
        help="What the files are (vqav2, okvqa, textvqa, coco_captions, vlguard or own), and the files in the data "
        "set's format.",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="DIR", help="Where answers and results go; a stopped run is resumed."),
]
HarnessName = Annotated[Harness | None, typer.Option(help="Measure by this harness; its options go behind --.")]
Data = Annotated[list[str] | None, typer.Option(metavar="NAME...", help="VLMEvalKit's names of data sets.")]
Tasks = Annotated[list[str] | None, typer.Option(metavar="NAME...", help="lmms-eval's names of tasks.")]
OverlongPrompts = Annotated[Overlong, typer.Option(help="Harness: too long prompts get an empty answer, or are cut.")]
Images = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of the images; default: that of the first file.")
]
Name = Annotated[str | None, typer.Option(help="What reports call the task; default: its kind.")]
MetricName = Annotated[
    str | None, typer.Option("--metric", help="Another metric than the kind's: exact, contains, choice, yes_no, ...")
]
Split = Annotated[str | None, typer.Option(help="Split of Karpathy's captions; default: test.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Prompts computed at a time; default: 8, harnesses 1.")]
AnswerTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer; default: 32 (questions), 64 (captions), 256 (chats).")
]
PromptForm = Annotated[
    Form | None, typer.Option(help="Prompts of instruct (chat) or base models; default: base with --shots.")
]
Protocol = Annotated[ProtocolName, typer.Option(help="How base models are asked and answers cut.")]
Suffix = Annotated[
    str | None, typer.Option(help="Text behind each question in chats; default: asks short answers to be short.")
]
Instruction = Annotated[str | None, typer.Option(help="What an image is shown with where a sample has no text.")]
Shots = Annotated[int, typer.Option(min=0, help="Examples in the prompt.")]
Support = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="Where examples come from (repeat it); default: the task's other samples."),
]
SupportImages = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of the support's images; default: as --images.")
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Ask only the first N samples.")]
Seed = Annotated[int, typer.Option(help="Seed of the choice of examples.")]


def evaluate(
    words: Words = None,
    output: Output = None,
    model: options.Model = TINY_MODEL,
    harness: HarnessName = None,
    data: Data = None,
    tasks: Tasks = None,
    overlong: OverlongPrompts = Overlong.skip,
    images: Images = None,
    name: Name = None,
    metric: MetricName = None,
    split: Split = None,
    batch_size: BatchSize = None,
    max_new_tokens: AnswerTokens = None,
    form: PromptForm = None,
    protocol: Protocol = ProtocolName.xgenmm,
    system: options.System = None,
    suffix: Suffix = None,
    instruction: Instruction = None,
    shots: Shots = 0,
    support: Support = None,
    support_images: SupportImages = None,
    limit: Limit = None,
    seed: Seed = 0,
    image_mode: options.Images = None,
    kept_mib: options.KeptMib = 0,
    dtype: options.ComputeDtype = options.Dtype.auto,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure how well a model answers: own questions, in-context VQA and captions, safety; benchmarks by a harness.

    xgenmm eval KIND FILE... -o DIR, or xgenmm eval --harness vlmevalkit --data NAME... [-- options of the harness]

    Several devices share the work with: accelerate launch -m xgenmm_hf.cli.eval KIND FILE... -o DIR
    """
    from xgenmm_hf.evaluation.prompting import AskSettings
    from xgenmm_hf.inference.prompts import system_turn
    from xgenmm_hf.inference.source import resolve_checkpoint

    # Cheap checks first: a wrong path should not wait for torch to load.
    source, mode = resolve_checkpoint(model), options.value_of(image_mode)
    adapter = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "system": system, "image_mode": mode}
    adapter |= {"dtype": dtype.value, "device": device, "overlong": overlong.value}
    if measured_by_harness(harness, data or [], tasks or [], words or [], source, output, adapter):
        return
    if not words or output is None:
        raise typer.BadParameter("Give KIND FILE... and -o DIR, or --harness with --data or --tasks.")
    settings = AskSettings(
        batch_size=batch_size or 8,
        max_new_tokens=max_new_tokens,
        form=options.value_of(form),
        protocol=protocol.value,
        system=system_turn(system),
        suffix=suffix,
        instruction=instruction,
        shots=shots,
        seed=seed,
        limit=limit,
        image_mode=mode,
        kept_mib=kept_mib,
    )
    reading = {"metric": metric, "split": split}
    task, examples = load_tasks(words, support, settings, images, support_images, name, **reading)
    measure(task, examples, settings, source, words[1:], output, dtype=dtype.value, device=device, as_json=as_json)


def measured_by_harness(
    harness: Harness | None,
    data: list[str],
    tasks: list[str],
    words: list[str],
    source: str,
    output: str | None,
    adapter: Mapping[str, Any],
) -> bool:
    """Hands over to a harness if one is meant; returns whether it was."""
    from xgenmm_hf.evaluation.harness.launch import HarnessRun, run_harness

    if harness is None and not data and not tasks:
        return False
    chosen = harness or (Harness.lmms_eval if tasks else Harness.vlmevalkit)
    if (data and chosen is not Harness.vlmevalkit) or (tasks and chosen is not Harness.lmms_eval):
        raise ValueError("--data belongs to --harness vlmevalkit, --tasks to --harness lmms-eval.")
    stop = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    given = [part for name in [*data, *tasks, *words[:stop]] for part in name.split(",") if part]
    options = {name: value for name, value in adapter.items() if value is not None}
    run_harness(HarnessRun(chosen.value, given, source, output, options, words[stop:]), print)
    return True


def load_tasks(
    words: list[str],
    support: list[str] | None,
    settings: "AskSettings",
    images: str | None,
    support_images: str | None,
    name: str | None,
    **reading: Any,
) -> "tuple[Task, Task | None]":
    """Reads the task, and what its examples come from."""
    from xgenmm_hf.evaluation.tasks import load_task

    kind, *files = words
    shown = settings.shots or settings.rules.blind_examples
    if support and not shown:
        raise ValueError("--support holds examples for the prompt, but --shots is 0: ask for some, such as --shots 4.")
    # Examples may come from all of the task's samples, also where only the first are asked.
    limit = None if shown and not support else settings.limit
    task = load_task(kind, files, images=images, limit=limit, name=name, **reading)
    if not support:
        return task, None
    return task, load_task(kind, support, images=support_images or images, name="support", **reading)


def measure(
    task: "Task",
    examples: "Task | None",
    settings: "AskSettings",
    source: str,
    files: list[str],
    output: str,
    *,
    dtype: str,
    device: str,
    as_json: bool,
) -> None:
    """Asks, rates and prints."""
    from xgenmm_hf.evaluation.runner import current_share, evaluate_task

    share = current_share(device)
    loaded = load_model(source, dtype, share.device)
    with progress_bar("asking", shown=share.rank == 0) as progress:
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
            announce=announce_prompt,
        )
    if result is not None:
        print(as_object(result, output) if as_json else "\n".join(render(result, output)))


def announce_prompt(prompt: Mapping[str, Any], difference: str) -> None:
    """Says on stderr which prompt is in force, and how it differs from that of the results that are there."""
    shots = f", {prompt['shots']} shots" if prompt["shots"] else ""
    print(f"prompt in force ({prompt['form']} form, {prompt['protocol']}{shots}):", file=sys.stderr)
    print(prompt["rendered"], file=sys.stderr)
    if difference:
        print(f"note: {difference}", file=sys.stderr)


def as_object(result: Mapping[str, Any], output: str) -> str:
    """Returns what a program reads: the scores and where the rest is."""
    names = ("task", "checkpoint", "prompt", "counts", "scores", "by_category")
    return json.dumps({**{name: result[name] for name in names}, "output": output}, ensure_ascii=False)


def render(result: Mapping[str, Any], output: str) -> Iterator[str]:
    """Yields the lines a person reads."""
    counts, problems = result["counts"], result["problems"]
    resumed = f", {counts['resumed']:,} of them answered before" if counts["resumed"] else ""
    yield f"{result['task']['name']}: {counts['evaluated']:,} samples{resumed}; {counts['problems']:,} problems"
    for category, scores in {"": result["scores"], **result["by_category"]}.items():
        for name, value in scores.items():
            shown = "-" if value is None else f"{value:.4f}"
            yield f"  {f'{category} {name}'.strip():<24}{shown:>10}"
    if problems:
        yield f"rows that do not count{' (the first ones)' if len(problems) > SHOWN_PROBLEMS else ''}:"
    for problem in problems[:SHOWN_PROBLEMS]:
        yield f"  {problem['source']}, {problem['where']}: {problem['reason']}"
    yield f"results.json, with every prompt and answer, is in {output}"


def main() -> None:
    """Runs ``xgenmm eval`` with the process's arguments."""
    quiet_libraries()
    typer.run(friendly_errors(evaluate))


if __name__ == "__main__":
    main()
