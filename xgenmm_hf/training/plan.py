"""What a run is going to do, in one line before it starts: rows, batch, steps, warm-up."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunPlan:
    """The size of a run: `num_rows` and `num_epochs` are None for a stream, `save_steps` without saving by steps."""

    num_rows: int | None
    batch_size: int
    num_steps: int
    num_epochs: float | None
    num_warmup_steps: int
    save_steps: int | None

    def __str__(self) -> str:
        rows = "a stream" if self.num_rows is None else f"{self.num_rows:,} rows"
        epochs = "" if self.num_epochs is None else f" ({self.num_epochs:.3g} epochs)"
        return (
            f"Training on {rows}: batches of {self.batch_size} rows, {self.num_steps:,} steps{epochs}, "
            f"{self.num_warmup_steps:,} of them warm-up"
        )

    def warnings(self) -> list[str]:
        """Returns one sentence for each thing that is hardly meant so."""
        found = []
        if self.num_warmup_steps >= self.num_steps > 0:
            found.append(
                f"All {self.num_steps} steps are warm-up, so the learning rate never reaches its value: lower "
                f"--warmup_steps (now {self.num_warmup_steps})."
            )
        if self.num_rows is not None and self.batch_size > self.num_rows:
            found.append(
                f"A batch takes {self.batch_size} rows and there are {self.num_rows}: lower "
                "--gradient_accumulation_steps or --per_device_train_batch_size."
            )
        if self.save_steps is not None and self.save_steps > self.num_steps:
            found.append(
                f"The first checkpoint would be at step {self.save_steps}, after the end: lower --save_steps to be "
                "able to resume a run that was stopped."
            )
        return found


def plan_of(trainer: Any) -> RunPlan:
    """Reads the plan off a trainer, as the Trainer itself counts."""
    args, rows = trainer.args, trainer.train_dataset
    num_rows = len(rows) if hasattr(rows, "__len__") else None
    num_steps, num_epochs = args.max_steps, None
    if num_rows is not None:
        batches = num_rows / (args.train_batch_size * args.world_size)
        batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
        per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
        num_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
        num_epochs = num_steps / per_epoch
    save_steps = None
    if args.save_strategy == "steps":
        save_steps = math.ceil(args.save_steps if args.save_steps >= 1 else args.save_steps * num_steps)
    batch_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return RunPlan(num_rows, batch_size, num_steps, num_epochs, args.get_warmup_steps(num_steps), save_steps)
