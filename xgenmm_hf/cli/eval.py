"""``xgenmm eval``: how well a model answers the questions of local files, or a benchmark through its harness.

Several devices share the work with ``accelerate launch -m xgenmm_hf.cli.eval`` or ``torchrun -m xgenmm_hf.cli.eval``.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import load_model, progress_bar, quiet_libraries
from xgenmm_hf.cli.errors import friendly_errors


if TYPE_CHECKING:
    from xgenmm_hf.evaluation.prompting import AskSettings

# As many problems as fit a screen; the report has all.
SHOWN_PROBLEMS = 5
# The options that a harness hands to our adapter.
ADAPTER = ("batch_size", "max_new_tokens", "system", "image_mode", "dtype", "device", "overlong")
Harness = Literal["vlmevalkit", "lmms-eval"]
Words = Annotated[
    list[str] | None,
    Argument(
        metavar="KIND FILE...",
        help="What the files are (vqav2, okvqa, textvqa, coco_captions, vlguard or own), and the files in the data "
        "set's format.",
        show_default=False,
    ),
]
Output = Annotated[
    str | None, Option("--output", "-o", metavar="DIR", help="Where answers and results go; a stopped run is resumed.")
]
MetricName = Annotated[
    str | None, Option("--metric", help="Another metric than the kind's: exact, contains, choice, yes_no, ...")
]
PromptFormOption = Annotated[
    Literal["chat", "base"] | None, Option(help="Prompts of these models; default: base with --shots.")
]
Support = Annotated[
    list[str] | None, Option(metavar="FILE", help="Where examples come from; default: the task's samples.")
]


def evaluate(
    words: Words = None,
    output: Output = None,
    model: options.Model = TINY_MODEL,
    harness: Annotated[Harness | None, Option(help="Measure by this harness; its options go after --.")] = None,
    data: Annotated[list[str] | None, Option(metavar="NAME...", help="VLMEvalKit's names of data sets.")] = None,
    tasks: Annotated[list[str] | None, Option(metavar="NAME...", help="lmms-eval's names of tasks.")] = None,
    overlong: Annotated[Literal["skip", "truncate"], Option(help="Harnesses: prompts over the context.")] = "skip",
    images: Annotated[str | None, Option(metavar="DIR", help="Images' folder; default: the first file's.")] = None,
    name: Annotated[str | None, Option(help="What reports call the task; default: its kind.")] = None,
    metric: MetricName = None,
    split: Annotated[str | None, Option(help="Split of Karpathy's captions; default: test.")] = None,
    batch_size: Annotated[int | None, Option(min=1, help="Prompts at a time; default: 8, harnesses 1.")] = None,
    max_new_tokens: Annotated[int | None, Option(min=1, help="Longest answer (32, captions 64, chats 256).")] = None,
    form: PromptFormOption = None,
    protocol: Annotated[Literal["xgenmm", "openflamingo"], Option(help="How base models are asked.")] = "xgenmm",
    system: options.System = None,
    suffix: Annotated[str | None, Option(help="Text after questions in chats; default: asks to be short.")] = None,
    instruction: Annotated[str | None, Option(help="What an image is shown with where a sample has no text.")] = None,
    shots: Annotated[int, Option(min=0, help="Examples in the prompt.")] = 0,
    support: Support = None,
    support_images: Annotated[str | None, Option(metavar="DIR", help="Its images' folder; default: --images.")] = None,
    limit: Annotated[int | None, Option(min=1, metavar="N", help="Ask only the first N samples.")] = None,
    seed: Annotated[int, Option(help="Seed of the choice of examples.")] = 0,
    image_mode: options.Images = None,
    kept_mib: options.KeptMib = 0,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure how well a model answers: own questions, in-context VQA and captions, safety; benchmarks by a harness.

    xgenmm eval KIND FILE... -o DIR, or xgenmm eval --harness vlmevalkit --data NAME... [-- options of the harness]

    Several devices share the work with: accelerate launch -m xgenmm_hf.cli.eval KIND FILE... -o DIR
    """
    given = locals()
    from xgenmm_hf.evaluation.prompting import AskSettings
    from xgenmm_hf.inference.prompts import system_turn
    from xgenmm_hf.inference.source import resolve_checkpoint

    source = resolve_checkpoint(model)
    if harness or data or tasks:
        measure_by_harness(source, given)
        return
    if not words or output is None:
        raise typer.BadParameter("Give KIND FILE... and -o DIR, or --harness with --data or --tasks.")
    asked = {field.name: given[field.name] for field in fields(AskSettings) if field.name in given}
    settings = AskSettings(**{**asked, "batch_size": batch_size or 8, "system": system_turn(system)})
    measure(source, settings, given)


def measure(source: str, settings: "AskSettings", given: Mapping[str, Any]) -> None:
    """Reads a task, asks, rates and prints; `given` are the verb's options."""
    from xgenmm_hf.evaluation.tasks import load_task

    (kind, *files), output, support, images = (given[name] for name in ("words", "output", "support", "images"))
    shown = settings.shots or settings.rules.blind_examples
    if support and not shown:
        raise ValueError("--support holds examples for the prompt, but --shots is 0: ask for some, such as --shots 4.")
    reading = {"metric": given["metric"], "split": given["split"]}
    # Examples may come from all of the task's samples, also where only the first are asked.
    limit = None if shown and not support else settings.limit
    task = load_task(kind, files, images=images, limit=limit, name=given["name"], **reading)
    folder = given["support_images"] or images
    examples = load_task(kind, support, images=folder, name="support", **reading) if support else None

    # Only now: a wrong path or row should not wait for torch to load.
    from xgenmm_hf.evaluation.runner import current_share, evaluate_task

    share = current_share(given["device"])
    loaded = load_model(source, given["dtype"], share.device)
    with progress_bar("asking", shown=share.rank == 0) as progress:
        told: dict[str, Any] = {"source": source, "files": files, "progress": progress, "announce": announce_prompt}
        result = evaluate_task(loaded, task, Path(output), settings, support=examples, share=share, **told)
    if result is not None:
        print(as_object(result, output) if given["as_json"] else "\n".join(render(result, output)))


def measure_by_harness(source: str, given: Mapping[str, Any]) -> None:
    """Hands over to a harness; `given` are the verb's options."""
    from xgenmm_hf.evaluation.harness.launch import HarnessRun, run_harness

    data, tasks, words = (given[name] or [] for name in ("data", "tasks", "words"))
    chosen = given["harness"] or ("lmms-eval" if tasks else "vlmevalkit")
    if data if chosen == "lmms-eval" else tasks:
        raise ValueError("--data belongs to --harness vlmevalkit, --tasks to --harness lmms-eval.")
    stop = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    names = [part for name in [*data, *tasks, *words[:stop]] for part in name.split(",") if part]
    adapter = {name: given[name] for name in ADAPTER if given[name] is not None}
    run_harness(HarnessRun(chosen, names, source, given["output"], adapter, words[stop:]), print)


def announce_prompt(prompt: Mapping[str, Any], difference: str) -> None:
    """Prints on stderr which prompt is in force, and how it differs from the prompt of existing results."""
    shots = f", {prompt['shots']} shots" if prompt["shots"] else ""
    print(f"prompt in force ({prompt['form']} form, {prompt['protocol']}{shots}):", file=sys.stderr)
    print(prompt["rendered"], file=sys.stderr)
    if difference:
        print(f"note: {difference}", file=sys.stderr)


def as_object(result: Mapping[str, Any], output: str) -> str:
    """Returns the JSON output: the scores, and the folder of the full results."""
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
