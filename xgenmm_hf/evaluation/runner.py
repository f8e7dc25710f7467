"""An evaluation from end to end: asks the samples of a task, rates the answers and writes the results.

Samples are asked in batches, sorted by length, and shared between processes; a run can be resumed. The answers are
the same as one by one: prompts are padded on the left, and no answer depends on the rest of its batch. (In half
precision a tie between two tokens can still fall either way.)
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import one_line
from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.data.lengths import describe_processor
from xgenmm_hf.evaluation.few_shot import PROTOCOLS, Examples, cut_answer, stem_answer
from xgenmm_hf.evaluation.metrics import score
from xgenmm_hf.evaluation.prompting import AskedSample, AskSettings, describe_prompt, prepare, render_sample
from xgenmm_hf.evaluation.results import Result, build_result, other_prompt, write_result
from xgenmm_hf.evaluation.samples import Sample, SampleProblem, Task
from xgenmm_hf.inference.asking import end_tokens
from xgenmm_hf.inference.batches import answer_texts
from xgenmm_hf.inference.feature_cache import FeatureCache
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompt_form import read_prompt_form
from xgenmm_hf.inference.prompts import is_base
from xgenmm_hf.inference.provenance import describe_checkpoint, provenance


Progress = Callable[[int, int], None]
# Processes finish at different times; this is how long they wait for each other.
PATIENCE = timedelta(hours=24)


class Share(NamedTuple):
    """This process's rank among `world`, `wait`, which returns when every process has called it, and its device."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], object] = bool
    device: str = "auto"


def current_share(device: str = "auto") -> Share:
    """Returns this process's share under `accelerate launch` or torchrun; a single process gets everything."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Share(device=device)
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    own = str(state.device) if device == "auto" else device
    return Share(state.process_index, state.num_processes, state.wait_for_everyone, own)


def read_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads the lines of all processes, by key; a half-written last line is ignored.

    A line is `{"id", "key", "answer"}`, or `{"id", "key", "problem"}` for a sample whose image turned out unreadable.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("answers*.jsonl")):
        *whole, _half = file.read_bytes().split(b"\n")
        for number, text in enumerate(whole, 1):
            try:
                line = json.loads(text)
                key, _ = line["key"], line["id"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{file}, line {number} is damaged: delete that line, and its sample will be asked again."
                ) from None
            if "answer" in line or "answer" not in found.get(key, {}):
                found[key] = line
    return found


def append_answers(file: Path, lines: list[Mapping[str, Any]]) -> None:
    """Appends lines to a process's file; removes a half-written last line first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as out:
        end = out.seek(0, 2)
        while end and (out.seek(end - 1), out.read(1))[1] != b"\n":
            end -= 1
        out.truncate(end)
        out.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())


class Run(NamedTuple):
    """What asking a task gave: answers in the task's order, problems of rows and samples, answers found on disk."""

    answered: list[AskedSample]
    problems: list[SampleProblem]
    resumed: int


def evaluate_task(
    loaded: Loaded,
    task: Task,
    output: Path,
    settings: AskSettings,
    *,
    source: str,
    files: Sequence[str] = (),
    share: Share | None = None,
    announce: Callable[[Mapping[str, Any], str], None] | None = None,
    **asking: Any,
) -> Result | None:
    """Asks a model a task (`asking`: see `run_task`), rates the answers and writes the results.

    `announce` is called with the prompt, and with a message if earlier results in `output` had another prompt. Only
    the first of several processes returns a result.
    """
    share = share or Share()
    if settings.form is None and is_base(loaded.processor):
        settings = replace(settings, form="base")
    settings = settings.in_form(read_prompt_form(source))
    # A missing library of a metric or protocol should show now, not after hours of asking.
    score(task.metric, checked_samples(task, 1), [""])
    if task.kind == "okvqa" and settings.rules is PROTOCOLS["openflamingo"]:
        stem_answer("men riding horses")
    prompt = describe_prompt(loaded.processor, task, settings)
    checkpoint = describe_checkpoint(source)
    if announce is not None and share.rank == 0:
        asking["started"] = lambda: announce(prompt, other_prompt(output, prompt))
    key = checkpoint.get("sha256") or checkpoint.get("commit") or source
    run = run_task(loaded, task, output, settings, share=share, checkpoint=key, **asking)
    if share.rank != 0:
        return None
    if not run.answered:
        raise ValueError(f"No sample of {task.name} could be asked; the first problem: {run.problems[0]}.")
    scores = score(task.metric, [one.sample for one in run.answered], [one.answer for one in run.answered])
    device = f"{loaded.model.device.type}, {str(loaded.model.dtype).removeprefix('torch.')}"
    origin = provenance(source, loaded.model, checkpoint=checkpoint)
    facts = {"files": list(files), "checkpoint": checkpoint, "provenance": origin, "prompt": prompt}
    result = build_result(task, run, scores, settings, facts, device=device, processes=share.world)
    write_result(result, output)
    return result


def run_task(
    loaded: Loaded,
    task: Task,
    output: Path,
    settings: AskSettings,
    *,
    support: Task | None = None,
    checkpoint: str = "",
    share: Share | None = None,
    progress: Progress | None = None,
    started: Callable[[], None] | None = None,
) -> Run:
    """Asks every sample of a task; examples come from `support`, by default the task itself."""
    share = share or Share()
    asked, problems = _prepare_all(loaded, task, (support or task).samples, settings, checkpoint)
    if started is not None:
        started()
    known = read_answers(output)
    # No process may write before all have read: they divide the samples that have no answer yet.
    share.wait()
    pending = [one for one in asked if "answer" not in known.get(one.key, {})]
    pending.sort(key=lambda one: (-one.num_tokens, one.sample.id))
    own = pending[share.rank :: share.world]
    cache = FeatureCache(loaded.model, loaded.processor, settings.kept_mib << 20) if settings.kept_mib else None
    file = output / ("answers.jsonl" if share.rank == 0 else f"answers-{share.rank}.jsonl")
    for start in range(0, len(own), settings.batch_size):
        batch = own[start : start + settings.batch_size]
        append_answers(file, _answer(loaded, task, settings, batch, cache))
        if progress is not None:
            progress(start + len(batch), len(own))
    share.wait()
    lines, answered = read_answers(output), []
    for one in asked:
        line = lines.get(one.key, {})
        if "answer" in line:
            answered.append(one._replace(answer=line["answer"]))
        else:
            reason = line.get("problem", "it was not answered: another process stopped early; run the command again")
            problems.append(SampleProblem(task.name, f"sample {one.sample.id}", reason))
    return Run(answered, problems, len(asked) - len(pending))


def checked_samples(task: Task, limit: int | None) -> list[Sample]:
    """Returns the samples to ask; raises a `ValueError` if there is none."""
    if not task.samples:
        reasons = f"; the first of {len(task.problems)} problems: {task.problems[0]}" if task.problems else ""
        raise ValueError(f"{task.name} has no sample to ask{reasons}.")
    return list(task.samples[:limit])


def _prepare_all(
    loaded: Loaded, task: Task, pool: Sequence[Sample], settings: AskSettings, checkpoint: str
) -> tuple[list[AskedSample], list[SampleProblem]]:
    """Renders and measures every prompt; those that cannot be asked become problems."""
    style, count = task.prompt_style, settings.shots or settings.rules.blind_examples
    samples = checked_samples(task, settings.limit)
    examples = Examples(pool, count, style, seed=settings.seed, blind=not settings.shots) if count else None
    longest, processor = settings.answer_tokens(style), loaded.processor
    context = loaded.model.config.text_config.max_position_embeddings
    identity = {  # what decides the answers, in addition to each sample's prompt and images
        "checkpoint": checkpoint,
        "dtype": str(loaded.model.dtype),
        "end_tokens": end_tokens(loaded.model).tolist(),
        "processor": describe_processor(processor, settings.image_mode),
        "image_processor": json.loads(processor.image_processor.to_json_string()),
        "max_new_tokens": longest,
        "image_mode": settings.image_mode,
        "protocol": settings.protocol,
    }
    asked, problems = [], []
    for sample in samples:
        try:
            shots = examples.choose(sample) if examples else []
            text = render_sample(processor, sample, shots, style, settings)
            one = prepare(processor, sample, shots, text, identity, settings.image_mode)
            if one.num_tokens + longest > context:
                raise ValueError(
                    f"the prompt takes {one.num_tokens} tokens and the answer up to {longest}, but the context holds "
                    f"{context}: use fewer shots, a shorter answer, or one tile per image"
                )
            asked.append(one)
        except ValueError as error:
            problems.append(SampleProblem(task.name, f"sample {sample.id}", one_line(error)))
    return asked, [*task.problems, *(examples.problems if examples else []), *problems]


def _answer(
    loaded: Loaded, task: Task, settings: AskSettings, batch: Sequence[AskedSample], cache: FeatureCache | None
) -> list[Mapping[str, Any]]:
    """Answers a batch of prompts; returns lines for `append_answers`."""
    lines: list[Mapping[str, Any]] = []
    readable, images = [], []
    for one in batch:
        try:
            images += [open_image(image) for image in one.images]
            readable.append(one)
        except UnreadableImage as error:
            lines.append({"id": one.sample.id, "key": one.key, "problem": one_line(error)})
    if readable:
        style, rules, mode = task.prompt_style, settings.rules, settings.image_mode
        texts, longest = [one.prompt for one in readable], settings.answer_tokens(style)
        answers = answer_texts(loaded, texts, images, longest, mode, cache, **rules.generation)
        if settings.prompt_form == "base":
            answers = [cut_answer(said, style, rules, task.kind) for said in answers]
        pairs = zip(readable, answers, strict=True)
        lines += [{"id": one.sample.id, "key": one.key, "answer": said} for one, said in pairs]
    return lines
