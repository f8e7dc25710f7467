"""Second rejected answers: what a model says when it sees an image through the noise of a diffusion process.

An answer to an image that is barely there rests on what the model expects, not on what it sees: next to the preferred
answer it is a hallucination of the model's own.
Source: BLIP-3 (arXiv 2408.08872, DPO); POVID (arXiv 2402.11411) for noised images as a source of rejected answers;
Visual Contrastive Decoding (arXiv 2311.16922) for the sigmoid schedule and step 500 of 1000.

    python -m xgenmm_hf.cli.noise MODEL ROWS OUT

Shapes: pixel values are (..., S, S) in [-1, 1], the tiles of one image together.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher
from PIL import Image

from xgenmm_hf.conversion.files import output_folder
from xgenmm_hf.training.answers import answer_prompts, text_of
from xgenmm_hf.training.batches import read_images
from xgenmm_hf.training.preference import PreferenceCollator, render_pair, with_image_list


logger = logging.getLogger(__name__)

STEPS_OF_SCHEDULES = 1000
SCHEDULES = ("sigmoid", "linear")
ANSWER, OUTCOME = "noised_answer", "noised_outcome"
# What became of a row; all but the first leave it without a second rejected answer.
OUTCOMES = ("added", "same_answer", "empty", "no_image", "unreadable", "too_long")


def noise_image(
    image: Image.Image | torch.Tensor,
    step: int = 500,
    num_steps: int = STEPS_OF_SCHEDULES,
    schedule: str = "sigmoid",
    generator: torch.Generator | None = None,
) -> Any:
    """Noises an image as a diffusion process does up to a step: sqrt(a) x + sqrt(1 - a) e, with e normal.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 4; a is `signal_left` at the step.
    """
    if isinstance(image, Image.Image):
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).float() / 127.5 - 1
        noised = noise_image(pixels, step, num_steps, schedule, generator)
        return Image.fromarray(((noised + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())
    left = signal_left(num_steps, schedule)
    if not 0 <= step < num_steps:
        raise ValueError(f"step is {step}; it must be between 0 and num_steps - 1 = {num_steps - 1}.")
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    noised = left[step].sqrt() * image.float() + (1 - left[step]).sqrt() * noise.to(image.device)
    return noised.to(image.dtype)


def signal_left(num_steps: int = STEPS_OF_SCHEDULES, schedule: str = "sigmoid") -> torch.Tensor:
    """Returns how much of an image is left after each step: the running product of 1 - beta.

    Fewer steps than the schedules' 1000 noise more each, so that the whole process ends alike.
    Source: Ho et al. 2020 (arXiv 2006.11239), section 4, for linear betas from 1e-4 to 0.02; Visual Contrastive
    Decoding (arXiv 2311.16922) for betas from 1e-5 to 5e-3 along a sigmoid from -6 to 6.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}.")
    if schedule == "linear":
        betas = torch.linspace(1e-4, 0.02, max(num_steps, 1), dtype=torch.float64)
    else:
        slopes = torch.linspace(-6, 6, max(num_steps, 1), dtype=torch.float64).sigmoid()
        betas = slopes * (5e-3 - 1e-5) + 1e-5
    betas = betas * (STEPS_OF_SCHEDULES / max(num_steps, 1))
    if num_steps < 1 or betas.max() >= 1:
        raise ValueError(f"num_steps is {num_steps}; the {schedule} schedule needs more steps, such as 1000.")
    return torch.cumprod(1 - betas, 0).float()


class NoisedRejections(NamedTuple):
    """What `add_noised_rejections` returns.

    Attributes:
        rows: The rows as they were, then the added ones.
        counts: How many rows had each of `OUTCOMES`.
    """

    rows: Dataset
    counts: dict[str, int]


def add_noised_rejections(
    dataset: Dataset,
    model: Any,
    processor: Any,
    *,
    step: int = 500,
    num_steps: int = STEPS_OF_SCHEDULES,
    schedule: str = "sigmoid",
    batch_size: int = 8,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> NoisedRejections:
    """Adds to preference rows a second one each: the same chosen answer, and what the model says to noised images.

    The answers are the most likely ones. They are a `datasets` map, cached like any other under the data, the model's
    weights and these arguments.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"dataset is a {type(dataset).__name__}; answers are cached for a datasets.Dataset alone.")
    noise_image(torch.zeros(1), step, num_steps, schedule)
    noise = {"step": step, "num_steps": num_steps, "schedule": schedule}
    answerer = Answerer(model, processor, noise, max_new_tokens, seed)
    answers = dataset.map(
        answerer,
        batched=True,
        batch_size=batch_size,
        with_indices=True,
        remove_columns=dataset.column_names,
        new_fingerprint=Hasher.hash((dataset._fingerprint, answerer.describe())),
        desc="Answering noised images",
    )
    counts = {**dict.fromkeys(OUTCOMES, 0), **Counter(answers[OUTCOME][:])}
    logger.info("Noised images: %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
    added = np.flatnonzero([outcome == "added" for outcome in answers[OUTCOME][:]])
    extra = concatenate_datasets([dataset, answers], axis=1).select(added)
    extra = extra.map(as_rejection, desc="Adding rejected answers").remove_columns([ANSWER, OUTCOME])
    return NoisedRejections(concatenate_datasets([dataset, extra.cast(dataset.features)]), counts)


class Answerer:
    """Answers the prompts of rows from noised images; the function of a batched `datasets` map.

    Args:
        model: The model.
        processor: Its processor.
        noise: Keyword arguments of `noise_image`.
        max_new_tokens: Upper limit of an answer's length.
        seed: Seed of the noise.
    """

    def __init__(self, model: Any, processor: Any, noise: Mapping[str, Any], max_new_tokens: int, seed: int):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more.")
        self.model = model
        self.processor = processor
        self.noise = dict(noise)
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self.measure = PreferenceCollator(processor)

    def describe(self) -> tuple:
        """Returns what the answers depend on, for the key of the cache."""
        from trl.trainer.utils import hash_module

        options = (sorted(self.noise.items()), self.max_new_tokens, self.seed)
        tokenizer = self.processor.tokenizer.backend_tokenizer.to_str()
        prompts = (self.processor.chat_template, self.processor.image_processor.to_dict(), tokenizer)
        return (hash_module(self.model), self.model.generation_config.to_dict(), options, prompts)

    def __call__(self, batch: Mapping[str, Sequence], indices: Sequence[int]) -> dict[str, list[str]]:
        """Answers a batch."""
        rows = [{name: batch[name][place] for name in batch} for place in range(len(indices))]
        found = [self._check(row) for row in rows]
        asked = [(row, index) for (row, outcome), index in zip(found, indices, strict=True) if outcome == "added"]
        answers = iter(self.answer(*zip(*asked, strict=True)) if asked else [])
        results = []
        for row, outcome in found:
            answer = next(answers) if outcome == "added" else ""
            if outcome == "added" and not answer:
                outcome = "empty"
            elif outcome == "added" and answer == text_of(row["chosen"]).strip():
                outcome = "same_answer"
            results.append((answer, outcome))
        return {ANSWER: [answer for answer, _ in results], OUTCOME: [outcome for _, outcome in results]}

    def _check(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Opens a row's images and tells whether it can be asked."""
        readable, unreadable = read_images([with_image_list(row)])
        if unreadable:
            logger.warning("%s", unreadable[0])
            return dict(row), "unreadable"
        if not readable[0]["images"]:
            return readable[0], "no_image"
        length = self.measure.encode(readable[0])[0].start
        context = self.model.config.text_config.max_position_embeddings
        return readable[0], "added" if length < context else "too_long"

    def answer(self, rows: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[str]:
        """Answers rows with images."""
        prompts = [render_pair(self.processor, row)[0] for row in rows]
        images = [image for row in rows for image in row["images"]]
        places = [
            f"{index}/{number}"
            for row, index in zip(rows, indices, strict=True)
            for number in range(len(row["images"]))
        ]
        noised = partial(self._noised, places=places)
        return answer_prompts(self.model, self.processor, prompts, images, self.max_new_tokens, noised)

    def _noised(self, inputs: Any, places: list[str]) -> Any:
        """Noises each image's tiles with a generator of its own."""
        noised = []
        tiles_of_images = inputs["pixel_values"].split(inputs["image_num_tiles"].tolist())
        for tiles, place in zip(tiles_of_images, places, strict=True):
            digest = hashlib.sha256(f"{self.seed}/{place}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            noised.append(noise_image(tiles, **self.noise, generator=generator))
        inputs["pixel_values"] = torch.cat(noised)
        return inputs


def as_rejection(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a row and its answer from noised images into the added row."""
    message = row["rejected"][-1]
    content = message["content"]
    if not isinstance(content, str):
        content = [{**dict.fromkeys(content[0] if content else ()), "type": "text", "text": row[ANSWER]}]
    else:
        content = row[ANSWER]
    fields: dict[str, Any] = {"rejected": [{**message, "content": content}]}
    if row.get("id") is not None:
        fields["id"] = f"{row['id']}-noised"
    return fields


def save_rows(dataset: Dataset, folder: str | Path) -> None:
    """Saves rows; the folder appears whole or not at all."""
    with output_folder(folder) as unfinished:
        dataset.save_to_disk(str(unfinished))
