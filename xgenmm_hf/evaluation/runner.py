"""Asks a model the samples of a task: in batches, sorted by length, resumable, and shared between processes.

The answers are those of asking one by one: every prompt is padded on its left, and nothing that decides an answer
depends on what else is in the batch. (In half precision a tie between two tokens can still fall either way.)
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.data.image_refs import UnreadableImage, open_image
from xgenmm_hf.evaluation.answering import answer_texts
from xgenmm_hf.evaluation.few_shot import Examples, trim_continuation
from xgenmm_hf.evaluation.image_features import ImageFeatures
from xgenmm_hf.evaluation.journal import Journal
from xgenmm_hf.evaluation.prompting import (
    ANSWER_TOKENS,
    DEFAULT_ANSWER_TOKENS,
    FORMS,
    Asked,
    prepare,
    render_prompt,
)
from xgenmm_hf.evaluation.samples import Problem, Sample, Task
from xgenmm_hf.evaluation.share import Share


if TYPE_CHECKING:
    from xgenmm_hf.inference.loading import Loaded

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How a task is asked.

    Args:
        batch_size: Prompts computed together; it changes no answer.
        max_new_tokens: Longest answer in tokens; None: what the task's prompt style needs.
        form: "chat" (instruct models) or "base" (base models); None: base where there are shots.
        suffix: Text behind each question in the chat form; None: the prompt style's.
        shots: Examples in the prompt.
        retrieval: Whether the examples are those with the nearest images, rather than random ones.
        seed: Seed of the choice of examples.
        limit: Ask the first samples only.
        image_mode: Mode of the image processor; None: the checkpoint's.
        kept_mib: MiB of images' tokens that are kept, for tasks that ask about an image more than once; 0: none.

    Raises:
        ValueError: If they contradict each other.
    """

    batch_size: int = 8
    max_new_tokens: int | None = None
    form: str | None = None
    suffix: str | None = None
    shots: int = 0
    retrieval: bool = False
    seed: int = 0
    limit: int | None = None
    image_mode: str | None = None
    kept_mib: int = 0

    def __post_init__(self):
        if self.form not in (None, *FORMS):
            raise ValueError(f"form is {self.form!r}; it must be one of {', '.join(FORMS)}.")
        if self.shots and self.form == "chat":
            raise ValueError("Examples in the prompt belong to the base form: leave out form='chat', or the shots.")
        if self.retrieval and not self.shots:
            raise ValueError("Retrieval chooses examples, but shots is 0: ask for some, such as 4.")
        lowest = {"batch_size": 1, "max_new_tokens": 1, "limit": 1, "shots": 0, "kept_mib": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be {least} or more.")

    @property
    def prompt_form(self) -> str:
        """The form of the prompts, "chat" or "base"."""
        return self.form or ("base" if self.shots else "chat")

    def answer_tokens(self, style: str) -> int:
        """Returns the longest answer in tokens for a prompt style."""
        return self.max_new_tokens or ANSWER_TOKENS.get(style, DEFAULT_ANSWER_TOKENS)


@dataclass(frozen=True)
class Answered:
    """A sample with the model's answer.

    Args:
        sample: The sample.
        prompt: The rendered prompt; each image is one `<image>`.
        shots: Ids of its examples.
        answer: What the model said.
    """

    sample: Sample
    prompt: str
    shots: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Run:
    """What asking a task gave.

    Args:
        answered: The answered samples, in the task's order.
        problems: The task's problems, and samples that could not be asked.
        resumed: Answers that were found on disk.
    """

    answered: list[Answered]
    problems: list[Problem]
    resumed: int


def run_task(
    loaded: "Loaded",
    task: Task,
    output: Path,
    settings: Settings,
    *,
    support: Task | None = None,
    checkpoint: str = "",
    share: Share | None = None,
    progress: Progress | None = None,
) -> Run:
    """Asks a model the samples of a task, and goes on where an earlier call with the same settings was stopped.

    Args:
        loaded: The model and its processor.
        task: What to ask.
        output: Folder of the answers on disk.
        settings: How to ask.
        support: Where examples come from; None: the task itself, each sample without itself.
        checkpoint: What identifies the checkpoint; answers of another one are not taken over.
        share: This process's part of the work.
        progress: Called with samples done and samples to do by this process.

    Returns:
        All answers of all processes.

    Raises:
        ValueError: If the task is empty or has an id twice, or the support is too small.
    """
    share = share or Share()
    samples = checked_samples(task, settings.limit)
    examples = _examples(loaded, task, samples, settings, support, output, checkpoint, share)
    asked, problems = _prepare_all(loaded, task, samples, settings, examples, checkpoint)
    journal = Journal(output, share.rank)
    known = journal.read()
    # No process may write before every process has read: the rest is divided by what was found.
    share.wait()
    pending = [one for one in asked if "answer" not in known.get(one.key, {})]
    pending.sort(key=lambda one: (-one.num_tokens, one.sample.id))
    own = pending[share.rank :: share.world]
    _answer_all(loaded, own, task.prompt_style, settings, journal, progress)
    share.wait()
    lines = journal.read()
    return _collect(asked, lines, [*task.problems, *problems], task.name, len(asked) - len(pending))


def checked_samples(task: Task, limit: int | None) -> list[Sample]:
    """Returns the samples to ask, after a look at their ids.

    Args:
        task: The task.
        limit: How many of the first; None: all.

    Raises:
        ValueError: If there are none, or two share an id.
    """
    if not task.samples:
        reasons = f"; the first of {len(task.problems)} problems: {task.problems[0]}" if task.problems else ""
        raise ValueError(f"{task.name} has no sample to ask{reasons}.")
    twice = [name for name, count in Counter(sample.id for sample in task.samples).items() if count > 1]
    if twice:
        raise ValueError(f"{task.name} has {len(twice)} ids more than once, such as {twice[0]!r}: make them unique.")
    return list(task.samples[:limit])


def _examples(
    loaded: "Loaded",
    task: Task,
    samples: Sequence[Sample],
    settings: Settings,
    support: Task | None,
    output: Path,
    checkpoint: str,
    share: Share,
) -> Examples | None:
    """Builds what chooses examples; None without shots."""
    if not settings.shots:
        return None
    pool = (support or task).samples
    features = None
    if settings.retrieval:
        features = ImageFeatures(loaded, output, checkpoint or "model", share)
        features.prepare([*pool, *samples])
    return Examples(pool, settings.shots, task.prompt_style, seed=settings.seed, features=features)


def _prepare_all(
    loaded: "Loaded",
    task: Task,
    samples: Sequence[Sample],
    settings: Settings,
    examples: Examples | None,
    checkpoint: str,
) -> tuple[list[Asked], list[Problem]]:
    """Renders and measures every prompt; those that cannot be asked become problems."""
    longest = settings.answer_tokens(task.prompt_style)
    context = loaded.model.config.text_config.max_position_embeddings
    identity = _identity(loaded, checkpoint, longest, settings.image_mode)
    asked, problems = [], []
    for sample in samples:
        try:
            shots = examples.choose(sample) if examples else []
            text = render_prompt(
                loaded.processor, sample, shots, task.prompt_style, settings.prompt_form, settings.suffix
            )
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


def _identity(loaded: "Loaded", checkpoint: str, longest: int, image_mode: str | None) -> dict[str, Any]:
    """Returns what decides the answers of a run beside each sample's prompt and images, as JSON-ready values."""
    from xgenmm_hf.data.lengths import describe_processor
    from xgenmm_hf.inference.asking import end_tokens

    return {
        "checkpoint": checkpoint,
        "dtype": str(loaded.model.dtype),
        "end_tokens": end_tokens(loaded.model).tolist(),
        "processor": describe_processor(loaded.processor, image_mode),
        "image_processor": json.loads(loaded.processor.image_processor.to_json_string()),
        "max_new_tokens": longest,
        "image_mode": image_mode,
    }


def _answer_all(
    loaded: "Loaded",
    asked: Sequence[Asked],
    style: str,
    settings: Settings,
    journal: Journal,
    progress: Progress | None,
) -> None:
    """Answers prompts batch by batch and writes each answer down at once."""
    cache = None
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
            answers = answer_texts(loaded, texts, flat, settings.answer_tokens(style), settings.image_mode, cache)
            for one, answer in zip(readable, answers, strict=True):
                kept = trim_continuation(answer, style) if settings.prompt_form == "base" else answer
                lines.append({"id": one.sample.id, "key": one.key, "answer": kept})
        journal.append(lines)
        if progress is not None:
            progress(min(start + settings.batch_size, len(asked)), len(asked))


def _collect(
    asked: Sequence[Asked],
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
            answered.append(Answered(one.sample, one.text, one.shots, line["answer"]))
        else:
            reason = line.get("problem", "it was not answered: another process stopped early; run the command again")
            found.append(Problem(name, f"sample {one.sample.id}", reason))
    return Run(answered, found, resumed)


def _problem(name: str, sample: Sample, error: ValueError) -> Problem:
    """Returns a sample's error as a problem."""
    return Problem(name, f"sample {sample.id}", " ".join(str(error).split()).rstrip("."))
