"""Training steps through the trainers that `xgenmm train` uses: collate, forward, backward, optimizer."""

import tempfile
from collections.abc import Callable
from typing import Any

from bench.counts import Work, dpo_work, sft_work
from bench.rows import Candidate, Row, compare
from bench.session import Session
from bench.shapes import build_model, image_size, make_images


ADAPTED = r".*language_model.*(qkv_proj|o_proj|gate_up_proj|down_proj)"
OPTIONS = {"report_to": "none", "max_length": None, "save_strategy": "no", "seed": 0, "disable_tqdm": True}


def measure_sft(session: Session) -> list[Row]:
    """Measures a step of fine-tuning on one conversation about an image, with the vision tower frozen."""
    from trl import SFTConfig

    from xgenmm_hf.training.collators import SupervisedCollator
    from xgenmm_hf.training.sft import XGenMMSFTTrainer

    rows = [{"images": images_of(session), "messages": [turn("user", QUESTION), turn("assistant", ANSWER)]}]
    collator = SupervisedCollator(session.processor)
    batch = collator(rows)

    def build(folder: str, checkpointing: bool) -> Any:
        return XGenMMSFTTrainer(
            trained_model(session),
            args=SFTConfig(folder, **options(session), gradient_checkpointing=checkpointing),
            data_collator=collator,
            train_dataset=as_dataset(rows),
            processing_class=session.processor,
        )

    targets = int((batch["labels"] != -100).sum())
    work = sft_work(
        session.config, len(batch["pixel_values"]), 1, batch["input_ids"].shape[1], targets, session.setting.size
    )
    return measure_steps("SFT step", session, build, rows, work, batch["input_ids"].numel())


def measure_dpo(session: Session) -> list[Row]:
    """Measures a DPO step on one pair about an image, with LoRA on the language model."""
    from peft import LoraConfig
    from trl import DPOConfig

    from xgenmm_hf.training.dpo import XGenMMDPOTrainer
    from xgenmm_hf.training.preference import PreferenceCollator

    sides = {"chosen": [turn("assistant", ANSWER)], "rejected": [turn("assistant", ANSWER[::-1])]}
    rows = [{"images": images_of(session), "prompt": [turn("user", QUESTION)], **sides}]
    collator = PreferenceCollator(session.processor)
    batch = collator(rows)

    def build(folder: str, checkpointing: bool) -> Any:
        return XGenMMDPOTrainer(
            trained_model(session),
            args=DPOConfig(folder, **options(session), gradient_checkpointing=checkpointing),
            data_collator=collator,
            train_dataset=as_dataset(rows),
            processing_class=session.processor,
            peft_config=LoraConfig(r=16, target_modules=ADAPTED, task_type="CAUSAL_LM"),
        )

    sequences, length = batch["input_ids"].shape
    targets = int(batch["completion_mask"].sum())
    tiles = len(batch["pixel_values"])
    work = dpo_work(session.config, tiles, sequences, length, targets, session.setting.size)
    return measure_steps("DPO step", session, build, rows, work, sequences * length)


QUESTION = "What does the image show, from the left to the right?"
ANSWER = "a red disc above a blue square, and a green star. " * 6


def turn(role: str, text: str) -> dict[str, Any]:
    """Returns a message; the user's shows the image first."""
    shown = [{"type": "image", "text": None}] if role == "user" else []
    return {"role": role, "content": [*shown, {"type": "text", "text": text}]}


def images_of(session: Session) -> list[Any]:
    """Returns the image of a row, in a list."""
    return make_images(1, image_size(session.config))


def as_dataset(rows: list[dict[str, Any]]) -> Any:
    """Returns rows as a data set; the trainers look at the first one."""
    from datasets import Dataset

    return Dataset.from_list(rows)


def options(session: Session) -> dict[str, Any]:
    """Returns the options that the trainers have in common."""
    on_cpu = session.setting.device.type == "cpu"
    return {**OPTIONS, "bf16": False, "use_cpu": on_cpu, "per_device_train_batch_size": 1, "learning_rate": 1e-5}


def trained_model(session: Session) -> Any:
    """Builds the preset's model afresh with the tower frozen; a trainer changes what it is given."""
    model = build_model(session.config, session.setting.device, session.setting.dtype)
    model.vision_tower.requires_grad_(False)
    return model


def measure_steps(
    part: str, session: Session, build: Callable[[str, bool], Any], rows: list[dict[str, Any]], work: Work, tokens: int
) -> list[Row]:
    """Measures steps without and with activation checkpointing, one trainer after the other.

    Args:
        part: Name of the part.
        session: The run; its own model is dropped first.
        build: Builds a trainer in a folder, with or without checkpointing.
        rows: Rows of a step.
        work: Work of a step.
        tokens: Tokens of a step.

    Returns:
        A row each.
    """
    session.drop_model()
    found: list[Row] = []
    for checkpointing in (False, True):
        with tempfile.TemporaryDirectory(prefix="xgenmm-bench-") as folder:
            trainer = build(folder, checkpointing)
            trainer.current_gradient_accumulation_steps = 1
            trainer.create_optimizer()
            trainer.model.train()
            name = "activations recomputed" if checkpointing else "activations kept"
            one = {name: Candidate(step_of(trainer, rows), tokens, work, f"{tokens} tokens, AdamW")}
            found += compare(part, "tokens", one, session.setting.device, session.setting.effort)
            del trainer, one
    return found


def step_of(trainer: Any, rows: list[dict[str, Any]]) -> Callable[[], None]:
    """Returns what takes one step of a trainer as its training loop does."""

    def step() -> None:
        batch = trainer.data_collator([dict(row) for row in rows])
        trainer.training_step(trainer.model, batch)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step
