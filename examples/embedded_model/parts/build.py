"""Makes the parts that the embedded model's recipe starts from, on drawn images, without a GPU.

    python -m embedded_model.parts.build --output runs/start --seed 0

The large models start from a SigLIP tower that exists; here it is made: tower and resampler learn to see before there
is any language (`embedded_tower`). The language part stays as it was drawn at random: language, and that words and
images belong together, is left to the recipe (`embedded_model`). What a stage leaves behind lies in the work
folder, so an interrupted run goes on where it stopped.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments, get_cosine_schedule_with_warmup
from transformers.trainer_utils import get_last_checkpoint

from embedded_model.parts.model import (
    NUM_LATENTS,
    PATCHES_PER_SIDE,
    WIDTH,
    build_model,
    build_processor,
    load_weights,
    save_checkpoint,
    save_weights,
)
from embedded_model.parts.muon import MuonAdam
from embedded_model.parts.tokenizer import build_embedded_tokenizer
from embedded_model.parts.tower import (
    DenseTower,
    ImageDataset,
    TileDataset,
    TokenReader,
    accuracy_by_class,
    join_rows,
    place_patches,
)
from embedded_model.world.scene import HELD_OUT, TRAIN


logger = logging.getLogger(__name__)

_MOST_TILES = 5
# Each stage draws its images from a range of seeds of its own.
_SEEDS_PER_STAGE = 10_000_000
_REPORTS = 10
_CHECKED_IMAGES = 96


@dataclass(frozen=True)
class StageSettings:
    """The numbers of one stage of the training.

    Args:
        steps: optimizer steps.
        batch_size: images that are computed together.
        rate: learning rate of AdamW.
        muon_rate: learning rate of Muon for the layers' matrices; None leaves everything to AdamW.
    """

    steps: int
    batch_size: int
    rate: float
    muon_rate: float | None = None

    @property
    def rows(self) -> int:
        """Rows of the whole stage."""
        return self.steps * self.batch_size


STAGES = {
    "tower": StageSettings(steps=4500, batch_size=16, rate=1.5e-3),
    "tokens": StageSettings(steps=1500, batch_size=32, rate=1e-3, muon_rate=4e-3),
}


class StageTrainer(Trainer):
    """A trainer that reads its stream in order: rows of a batch are made to fit each other."""

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        """Returns a sampler without shuffling; the streams are random by construction."""
        return SequentialSampler(self.train_dataset)


class Report(TrainerCallback):
    """Logs a measurement on held-out images now and then."""

    def __init__(self, name: str, measure: Any, every: int):
        """Takes the stage's name, what measures it, and how many steps lie between measurements."""
        self.name, self.measure, self.every = name, measure, every

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measures after every so many steps and after the last."""
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        model.eval()
        with torch.no_grad():
            numbers = self.measure(model)
        model.train()
        shown = ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())
        logger.info("%s, step %d of %d: %s", self.name, state.global_step, state.max_steps, shown)


def fit(
    name: str,
    stage: StageSettings,
    module: nn.Module,
    data: Dataset,
    collate: Any,
    measure: Any,
    folder: Path,
    bf16: bool,
) -> None:
    """Runs one stage's steps; goes on from the last checkpoint that the folder holds.

    Args:
        name: name of the stage, for the log.
        stage: its numbers.
        module: returns a loss for a batch; it is trained in place.
        data: the stream of rows.
        collate: makes a batch of rows.
        measure: takes the module, gives named accuracies on held-out images.
        folder: for the trainer's own checkpoints.
        bf16: whether matrix products are computed in bfloat16.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        learning_rate=stage.rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(100, stage.steps // 10),
        weight_decay=0.05,
        bf16=bf16,
        use_cpu=True,
        report_to=[],
        logging_steps=max(1, stage.steps // _REPORTS),
        save_steps=max(1, stage.steps // 4),
        save_total_limit=1,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    optimizers: tuple[Any, Any] = (None, None)
    if stage.muon_rate is not None:
        optimizer = MuonAdam(module.named_parameters(), stage.muon_rate, stage.rate)
        optimizers = (optimizer, get_cosine_schedule_with_warmup(optimizer, min(30, stage.steps // 10), stage.steps))
    callbacks = [Report(name, measure, max(1, stage.steps // _REPORTS))]
    trainer = StageTrainer(module, arguments, collate, data, callbacks=callbacks, optimizers=optimizers)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.exists() else None)


def train_eyes(
    name: str, stage: StageSettings, model: Any, processor: Any, first_seed: int, folder: Path, bf16: bool
) -> None:
    """Runs the stage `"tower"` or `"tokens"`; see `fit` and `embedded_tower`."""
    parts, side = model.model, PATCHES_PER_SIDE
    module: nn.Module
    kind: type[TileDataset]
    if name == "tower":
        place_patches(parts.vision_tower, side, WIDTH)
        module, kind = DenseTower(parts.vision_tower, WIDTH), TileDataset
    else:
        parts.vision_tower.requires_grad_(False)
        module = TokenReader(parts.get_image_features, parts.resampler, side**2, _MOST_TILES * NUM_LATENTS, WIDTH)
        kind = ImageDataset
    data = kind(processor.image_processor, side, stage.rows, first_seed, TRAIN)
    held_out = kind(processor.image_processor, side, _CHECKED_IMAGES, first_seed, HELD_OUT)
    checked = join_rows([held_out[index] for index in range(len(held_out))])
    truth = checked["classes" if name == "tower" else "places"]

    def measure(trained: nn.Module) -> dict[str, float]:
        return accuracy_by_class(trained(**checked)["right"], truth)

    fit(name, stage, module, data, join_rows, measure, folder, bf16)


def train_embedded(output: Path, work: Path, seed: int = 0, scale: float = 1.0, bf16: bool = True) -> None:
    """Trains the parts and writes them as one checkpoint.

    Args:
        output: where the checkpoint goes; a checkpoint that is there is replaced.
        work: where the stages leave their results; stages whose results are there are skipped.
        seed: seed of the weights and of the images.
        scale: factor on the steps of every stage, for trying the whole way quickly.
        bf16: whether matrix products are computed in bfloat16.
    """
    torch.manual_seed(seed)
    tokenizer = build_embedded_tokenizer()
    processor = build_processor(tokenizer)
    # Written-out attention: on processors the fused kernel's backward pass takes twice as long for so few patches.
    model = build_model(tokenizer, attention="eager")
    work.mkdir(parents=True, exist_ok=True)
    for number, (name, stage) in enumerate(STAGES.items()):
        result = work / f"{name}.safetensors"
        if result.exists():
            load_weights(model, result)
            logger.info("%s: taken from %s", name, result)
            continue
        torch.manual_seed(seed * len(STAGES) + number)
        stage = replace(stage, steps=max(2, round(stage.steps * scale)))
        first_seed = (seed * len(STAGES) + number) * _SEEDS_PER_STAGE
        train_eyes(name, stage, model, processor, first_seed, work / name, bf16)
        model.requires_grad_(True)
        save_weights(model, result)
    save_checkpoint(model, processor, output)


def main(
    output: Annotated[Path, typer.Option(help="Where the checkpoint goes; one that is there is replaced.")],
    work: Annotated[Path | None, typer.Option(help="Folder for the stages' results [default: OUTPUT.stages].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the images.")] = 0,
    scale: Annotated[float, typer.Option(help="Factor on the steps of every stage, for a quick try.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 leaves the choice to torch.")] = 0,
    bf16: Annotated[bool, typer.Option(help="Compute matrix products in bfloat16.")] = True,
) -> None:
    """Trains the parts that the embedded model's recipe starts from: half an hour on two cores."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if threads:
        torch.set_num_threads(threads)
    train_embedded(output, work or output.with_name(f"{output.name}.stages"), seed, scale, bf16)


if __name__ == "__main__":
    typer.run(main)
