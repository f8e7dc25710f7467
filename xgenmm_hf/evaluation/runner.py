"""Asks a model the samples of a task: in batches, sorted by length, resumable, and shared between processes.

The answers are those of asking one by one: every prompt is padded on its left, and nothing that decides an answer
depends on what else is in the batch. (In half precision a tie between two tokens can still fall either way.)
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.evaluation.few_shot import Examples, trim_continuation
from xgenmm_hf.evaluation.journal import Journal
from xgenmm_hf.evaluation.prompting import AskedSample, prepare, render_prompt
from xgenmm_hf.evaluation.samples import Problem, Sample, Task
from xgenmm_hf.evaluation.settings import AskSettings
from xgenmm_hf.evaluation.share import Share
from xgenmm_hf.inference.batches import answer_texts


if TYPE_CHECKING:
    from xgenmm_hf.inference.loading import Loaded

Progress = Callable[[int, int], None]


class SampleAnswer(NamedTuple):
    """A sample with its rendered prompt, the ids of its examples, and what the model said."""

    sample: Sample
    prompt: str
    shots: tuple[str, ...]
    answer: str


class Run(NamedTuple):
    """What asking a task gave: answers in the task's order, problems of rows and samples, answers found on disk."""

    answered: list[SampleAnswer]
    problems: list[Problem]
    resumed: int


def run_task(
    loaded: "Loaded",
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
    """Asks every sample of a task."""
    share = share or Share()
    samples = checked_samples(task, settings.limit)
    asked, problems = _prepare_all(loaded, task, samples, settings, support, checkpoint)
    if started is not None:
        started()
    journal = Journal(output, share.rank)
    known = journal.read()
    # No process may write before every process has read: the rest is divided by what was found.
    share.wait()
    pending = [one for one in asked if "answer" not in known.get(one.key, {})]
    pending.sort(key=lambda one: (-one.num_tokens, one.sample.id))
    _answer_all(loaded, pending[share.rank :: share.world], task, settings, journal, progress)
    share.wait()
    return _collect(asked, journal.read(), [*task.problems, *problems], task.name, len(asked) - len(pending))


def checked_samples(task: Task, limit: int | None) -> list[Sample]:
    """Returns the samples to ask, after a look at their ids."""
    if not task.samples:
        reasons = f"; the first of {len(task.problems)} problems: {task.problems[0]}" if task.problems else ""
        raise ValueError(f"{task.name} has no sample to ask{reasons}.")
    twice = [name for name, count in Counter(sample.id for sample in task.samples).items() if count > 1]
    if twice:
        raise ValueError(f"{task.name} has {len(twice)} ids more than once, such as {twice[0]!r}: make them unique.")
    return list(task.samples[:limit])


def _prepare_all(
    loaded: "Loaded",
    task: Task,
    samples: Sequence[Sample],
    settings: AskSettings,
    support: Task | None,
    checkpoint: str,
) -> tuple[list[AskedSample], list[Problem]]:
    """Renders and measures every prompt; those that cannot be asked become problems."""
    style, count = task.prompt_style, settings.shots or settings.rules.blind_examples
    pool = (support or task).samples
    examples = Examples(pool, count, style, seed=settings.seed, blind=not settings.shots) if count else None
    longest = settings.answer_tokens(style)
    context = loaded.model.config.text_config.max_position_embeddings
    identity = _identity(loaded, checkpoint, longest, settings)
    asked, problems = [], []
    for sample in samples:
        try:
            shots = examples.choose(sample) if examples else []
            text = render_prompt(loaded.processor, sample, shots, style, settings)
            one = prepare(loaded.processor, sample, shots, text, identity, settings.image_mode)
            if one.num_tokens + longest > context:
                raise ValueError(
                    f"the prompt takes {one.num_tokens} tokens and the answer up to {longest}, but the context holds "
                    f"{context}: use fewer shots, a shorter answer, or one tile per image"
                )
            asked.append(one)
        except ValueError as error:
            problems.append(_problem(task.name, sample, error))
    return asked, [*(examples.problems if examples else []), *problems]


def _identity(loaded: "Loaded", checkpoint: str, longest: int, settings: AskSettings) -> dict[str, Any]:
    """Returns what decides the answers of a run beside each sample's prompt and images, as JSON-ready values."""
    from xgenmm_hf.data.lengths import describe_processor
    from xgenmm_hf.inference.asking import end_tokens

    return {
        "checkpoint": checkpoint,
        "dtype": str(loaded.model.dtype),
        "end_tokens": end_tokens(loaded.model).tolist(),
        "processor": describe_processor(loaded.processor, settings.image_mode),
        "image_processor": json.loads(loaded.processor.image_processor.to_json_string()),
        "max_new_tokens": longest,
        "image_mode": settings.image_mode,
        "protocol": settings.protocol,
    }


def _answer_all(
    loaded: "Loaded",
    asked: Sequence[AskedSample],
    task: Task,
    settings: AskSettings,
    journal: Journal,
    progress: Progress | None,
) -> None:
    """Answers prompts batch by batch and writes each answer down at once."""
    cache, style = None, task.prompt_style
    if settings.kept_mib:
        from xgenmm_hf.inference.feature_cache import FeatureCache

        cache = FeatureCache(loaded.model, loaded.processor, settings.kept_mib * 2**20)
    for start in range(0, len(asked), settings.batch_size):
        lines: list[Mapping[str, Any]] = []
        readable, images = [], []
        for one in asked[start : start + settings.batch_size]:
            try:
                images.append([open_image(image) for image in one.images])
                readable.append(one)
            except UnreadableImage as error:
                lines.append({"id": one.sample.id, "key": one.key, "problem": _problem("", one.sample, error).reason})
        if readable:
            texts = [one.text for one in readable]
            flat = [image for group in images for image in group]
            longest, options = settings.answer_tokens(style), settings.rules.generation
            answers = answer_texts(loaded, texts, flat, longest, settings.image_mode, cache, **options)
            for one, answer in zip(readable, answers, strict=True):
                if settings.prompt_form == "base":
                    answer = trim_continuation(answer, style, settings.rules, task.kind)
                lines.append({"id": one.sample.id, "key": one.key, "answer": answer})
        journal.append(lines)
        if progress is not None:
            progress(min(start + settings.batch_size, len(asked)), len(asked))


def _collect(
    asked: Sequence[AskedSample],
    lines: Mapping[str, Mapping[str, Any]],
    problems: Sequence[Problem],
    name: str,
    resumed: int,
) -> Run:
    """Puts the answers of all processes into the task's order."""
    answered, found = [], list(problems)
    for one in asked:
        line = lines.get(one.key, {})
        if "answer" in line:
            answered.append(SampleAnswer(one.sample, one.text, one.shots, line["answer"]))
        else:
            reason = line.get("problem", "it was not answered: another process stopped early; run the command again")
            found.append(Problem(name, f"sample {one.sample.id}", reason))
    return Run(answered, found, resumed)


def _problem(name: str, sample: Sample, error: ValueError) -> Problem:
    """Returns a sample's error as a problem."""
    return Problem(name, f"sample {sample.id}", " ".join(str(error).split()).rstrip("."))
