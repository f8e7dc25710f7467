"""A mixin with what our trainers add to TRL's.

It counts and reports dropped rows, stops the run at a NaN or infinite loss, marks complete checkpoints, sets learning
rates per part of the model, and answers rows at evaluations.
"""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from transformers import TrainerCallback

from xgenmm_hf.data.loading import NO_SPACE
from xgenmm_hf.modeling.targets_xgenmm import IGNORE_INDEX
from xgenmm_hf.modeling.text_queries_xgenmm import prompt_mask_of
from xgenmm_hf.training.checkpoints import discard, mark_complete, rotate, what_was_kept
from xgenmm_hf.training.modules import PARTS as MARKS
from xgenmm_hf.training.sharding import add_blank_image, gather_head_before_use


logger = logging.getLogger(__name__)

JUDGED_AFTER = 100


class AppliesSettings(TrainerCallback):
    """Makes a resumed run log, evaluate and save as its options say; the Trainer would keep the checkpoint's steps."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        state.compute_steps(args, state.max_steps)


class TrainingStopped(RuntimeError):
    """Raised when a run stops itself; the message names the cause in one sentence."""


def with_prompt_mask(inputs: dict[str, Any], config: Any) -> dict[str, Any]:
    """Adds the `prompt_mask` that models of the first release read; TRL's fused loss does not pass them the labels."""
    has_images = "pixel_values" in inputs or "mm_encoder_outputs" in inputs
    if not config.resampler_config.text_conditioned or not has_images:
        return inputs
    ids, labels = inputs["input_ids"], inputs.get("labels")
    if labels is None:
        labels = ids.masked_fill(inputs["completion_mask"] == 0, IGNORE_INDEX)
    mask = prompt_mask_of(inputs.get("attention_mask"), ids == config.image_token_id, labels)
    return {**inputs, "prompt_mask": mask}


class GuardedTrainerMixin:
    """Adds the guards to a trainer; list it before TRL's class among the bases.

    `max_dropped` applies after the first 100 rows; `run_facts` go into each checkpoint's marker; `learning_rates` maps
    names in `modules.PARTS` to learning rates; `answers` is an `EvaluationAnswers` or None.
    """

    def __init__(
        self,
        *args: Any,
        max_dropped: float = 0.01,
        run_facts: dict[str, Any] | None = None,
        learning_rates: Mapping[str, float] | None = None,
        answers: Any = None,
        **kwargs: Any,
    ):
        self.max_dropped = max_dropped
        self.run_facts = dict(run_facts or {})
        self.learning_rates = dict(learning_rates or {})
        self.answers = answers
        self.num_rows = 0
        self.num_dropped = 0
        self._reported: set[str] = set()
        self._row_ids: list[str] = []
        super().__init__(*args, **kwargs)
        # The Trainer would also count half-written checkpoints, so this class removes old ones itself.
        self.args, self.num_kept_checkpoints = copy.copy(self.args), self.args.save_total_limit
        self.args.save_total_limit = None
        self.add_callback(AppliesSettings)
        gather_head_before_use(self.model)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Creates the optimizer, with a learning rate per part where `learning_rates` has one."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.learning_rates:
            names = {parameter: name for name, parameter in self.model.named_parameters()}
            split_groups(optimizer, names, self.learning_rates)
        return optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates; with `answers`, also answers their rows and adds the metric."""
        metrics = super().evaluate(*args, **kwargs)
        if self.answers is None:
            return metrics
        answered = self.answers.answer(self)
        self.log(answered)
        return {**metrics, **answered}

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Removes `row_ids` and `unreadable` from a batch before it goes to the device and the model."""
        inputs = dict(inputs)
        self._row_ids, unreadable = (list(inputs.pop(name, None) or ()) for name in ("row_ids", "unreadable"))
        without = "pixel_values" not in inputs
        some_have_images = self._count_rows(len(self._row_ids), unreadable, not without)
        # If no rank has an image, none runs the tower, and the resampler gets no gradient, as on one device.
        if without and some_have_images and self.is_sharded():
            inputs = self._add_blank_image(inputs)
        return super()._prepare_inputs(with_prompt_mask(inputs, self._plain_config()))

    def _add_blank_image(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Adds a blank image to a batch without images, so that this rank runs what the others run."""
        return add_blank_image(inputs, self._plain_config()) if "labels" in inputs else inputs

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Computes the loss and stops the run if it is NaN or infinite."""
        result = super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        self._check_loss(result[0] if return_outputs else result)
        return result

    def _count_rows(self, num_readable: int, unreadable: list[str], with_images: bool) -> bool:
        """Counts rows over all ranks, reports each dropped one once, and stops the run if there are too many."""
        for sentence in unreadable:
            if sentence not in self._reported:
                self._reported.add(sentence)
                logger.warning(sentence)
        # Floats, because accelerate scales what it reduces.
        here = [num_readable + len(unreadable), len(unreadable), int(with_images)]
        counts = self.accelerator.reduce(torch.tensor(here, device=self.args.device).float(), "sum")
        rows, bad, images = (int(count) for count in counts.tolist())
        self.num_rows += rows
        self.num_dropped += bad
        if self.num_rows < JUDGED_AFTER or self.num_dropped <= self.max_dropped * self.num_rows:
            return bool(images)
        last = next((text for text in gather_object(unreadable[-1:]) if text), "")
        raise TrainingStopped(
            f"{self.num_dropped} of {self.num_rows} rows ({self.num_dropped / self.num_rows:.1%}) have an "
            "image that cannot be read or a prompt that leaves no room for an answer, more than max_dropped "
            f"{self.max_dropped:.1%} allows. {last}".rstrip()
        )

    def _check_loss(self, loss: torch.Tensor) -> None:
        """Stops all ranks if the loss of one is NaN or infinite, and names the rows."""
        broken = (~torch.isfinite(loss.detach())).any().float()
        if not int(self.accelerator.reduce(broken, "sum")):
            return
        names = gather_object(self._row_ids if int(broken) else [])
        kind, step = "training" if self.model.training else "evaluation", self.state.global_step + 1
        raise TrainingStopped(
            f"The {kind} loss at step {step} is not finite, on the rows {', '.join(names)}: look at these rows, or "
            "lower the learning rate."
        )

    def is_sharded(self) -> bool:
        """Tells whether ranks hold pieces of the parameters, so that all must run the same modules."""
        if self.accelerator.num_processes == 1:
            return False
        return bool(getattr(self, "is_fsdp_enabled", False) or getattr(self, "is_deepspeed_enabled", False))

    def _plain_config(self) -> Any:
        return self.accelerator.unwrap_model(self.model).config

    def describe_dropped(self) -> str:
        """Returns one sentence about how many rows were dropped."""
        share = self.num_dropped / max(self.num_rows, 1)
        return (
            f"{self.num_dropped} of {self.num_rows} rows ({share:.2%}) were dropped since the last start: an image "
            "cannot be read, or the prompt leaves no room for an answer."
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, and reports dropped rows at the end, also if the run stops early."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.num_rows and self.is_world_process_zero():
                logger.log(logging.WARNING if self.num_dropped else logging.INFO, self.describe_dropped())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves a checkpoint, marks it complete when every rank is done, and only then removes old ones."""
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            discard(folder)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not is_disk_error(error):
                raise
            raise TrainingStopped(f"{folder} could not be written ({error}); {what_was_kept(run)}") from error
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder, {**self.run_facts, "step": self.state.global_step})
            rotate(run, self.num_kept_checkpoints, self.state.best_model_checkpoint)


def split_groups(optimizer: Any, names: Mapping[Any, str], rates: Mapping[str, float]) -> None:
    """Splits the groups of an optimizer so that each part of the model has its learning rate."""
    groups = []
    for group in optimizer.param_groups:
        by_rate: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            rate = next((rate for part, rate in rates.items() if MARKS[part] in names[parameter]), group["lr"])
            by_rate.setdefault(rate, []).append(parameter)
        groups += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    optimizer.param_groups[:] = groups


def is_disk_error(error: BaseException) -> bool:
    """Tells whether an error means that the disk is full; libraries may pass the system's error on as text."""
    full = isinstance(error, OSError) and error.errno in NO_SPACE
    return full or any(text in str(error) for text in ("No space left", "Disk quota", "PytorchStreamWriter"))
