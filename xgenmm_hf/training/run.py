"""The training stages, from options to a saved checkpoint: parse, load, build the trainer, train, save.

There is no training loop here: TRL's trainers run the steps, accelerate places them.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.training.arguments import Recipe, parse_recipe
from xgenmm_hf.training.card import write_card
from xgenmm_hf.training.checkpoints import checkpoint_to_resume, run_facts
from xgenmm_hf.training.collators import PretrainingCollator, SupervisedCollator
from xgenmm_hf.training.loading import checked_source, load_for_training
from xgenmm_hf.training.modules import choose_trained, count_parameters, counts_table, lora_config
from xgenmm_hf.training.sft import XGenMMSFTTrainer
from xgenmm_hf.training.stage_rows import count_sources, load_rows


logger = logging.getLogger(__name__)

# Takes the model, its gradients switched on and off already, and the training arguments; returns a torch optimizer.
MakeOptimizer = Callable[[Any, Any], Any]


def run_stage(stage: str, arguments: Sequence[str], make_optimizer: MakeOptimizer | None = None) -> Path:
    """Runs a stage from its command line.

    Args:
        stage: "pretrain", "sft", "dpo" or "safety".
        arguments: `--config NAME` and overrides.
        make_optimizer: Makes the optimizer from the model and the training arguments. Default: the trainer makes the
            one that its own options name.

    Returns:
        The folder of the trained checkpoint.

    Raises:
        ValueError: If an option, the model or the data is wrong.
        TrainingStopped: If the run stopped itself.
    """
    recipe = parse_recipe(stage, arguments)
    checked_source(recipe.base)
    resumed = checkpoint_to_resume(recipe)
    model, processor = load_for_training(recipe)
    train_rows, eval_rows = load_rows(recipe, processor)
    if recipe.stage == "dpo" and recipe.data.noised_rejections:
        train_rows = add_rejections(recipe, model, processor, train_rows)
    trainer = build_trainer(recipe, model, processor, train_rows, eval_rows, make_optimizer)
    if trainer.is_world_process_zero():
        logger.info("%s", counts_table(count_parameters(trainer.model)))
        logger.info("Starting %s", "afresh" if resumed is None else f"from {resumed}")
    result = trainer.train(resume_from_checkpoint=resumed)
    metrics = {**result.metrics, **(trainer.evaluate() if eval_rows is not None else {})}
    save_run(trainer, recipe, count_sources(train_rows), metrics)
    if hasattr(trainer, "end"):  # closes trackers and the process group; newer libraries
        trainer.end()
    return Path(recipe.training.output_dir)


def add_rejections(recipe: Recipe, model: Any, processor: Any, rows: Any) -> Any:
    """Adds to preference rows what the model itself says to noised images, on the main process first.

    Args:
        recipe: The run's options.
        model: The model before training.
        processor: Its processor.
        rows: Preference rows.

    Returns:
        The rows and the added ones.

    Raises:
        ValueError: If the rows are a stream.
    """
    if not hasattr(rows, "__len__"):
        raise ValueError("noised_rejections answers all rows first: leave streaming out.")
    from xgenmm_hf.training.noise import add_noised_rejections

    with recipe.training.main_process_first(desc="answers from noised images"):
        added = add_noised_rejections(rows, model.to(recipe.training.device), processor, seed=recipe.training.seed)
    logger.info("Answers from noised images: %s", ", ".join(f"{name} {count}" for name, count in added.counts.items()))
    return added.rows


def build_trainer(
    recipe: Recipe,
    model: Any,
    processor: Any,
    train_rows: Any,
    eval_rows: Any = None,
    make_optimizer: MakeOptimizer | None = None,
) -> Any:
    """Builds the trainer of a stage.

    Args:
        recipe: The run's options.
        model: The model; its gradients are switched on and off here.
        processor: Its processor.
        train_rows: Rows of the stage's kind.
        eval_rows: Likewise, or None.
        make_optimizer: As for `run_stage`.

    Returns:
        A trainer, ready to train.
    """
    adapter = lora_config(model, recipe.model, recipe.modules)
    if adapter is None:
        choose_trained(model, recipe.modules)
    shared = {
        "optimizers": (make_optimizer(model, recipe.training) if make_optimizer else None, None),
        "model": model,
        "args": recipe.training,
        "train_dataset": train_rows,
        "eval_dataset": eval_rows,
        "processing_class": processor,
        "peft_config": adapter,
        "max_unreadable": recipe.data.max_unreadable,
        "run_facts": run_facts(recipe),
    }
    if recipe.stage == "dpo":
        from xgenmm_hf.training.dpo import XGenMMDPOTrainer

        return XGenMMDPOTrainer(data_collator=make_collator(recipe, processor), **shared)
    return XGenMMSFTTrainer(
        data_collator=make_collator(recipe, processor),
        group_by_modality_length=recipe.data.group_by_modality_length,
        **shared,
    )


def make_optimizer(recipe: Recipe, model: Any) -> Any:
    """Makes the optimizer that `muon_learning_rate` asks for.

    Args:
        recipe: The run's options.
        model: The model, its gradients switched on and off already.

    Returns:
        The optimizer, or None: the trainer then makes the one that its own options name.

    Raises:
        ValueError: If the option does not go with the others.
    """
    if recipe.modules.muon_learning_rate is None:
        return None
    if recipe.model.use_peft or recipe.training.fsdp or recipe.training.deepspeed:
        raise ValueError(
            "muon_learning_rate needs whole matrices that train: leave it out with LoRA, FSDP or DeepSpeed."
        )
    from embedded_model.parts.muon import MuonAdam

    args = recipe.training
    betas = (args.adam_beta1, args.adam_beta2)
    rates = (recipe.modules.muon_learning_rate, args.learning_rate)
    return MuonAdam(model.named_parameters(), *rates, betas=betas, weight_decay=args.weight_decay)


def make_collator(recipe: Recipe, processor: Any) -> Any:
    """Makes the collator of a stage: all text of a document, the assistant's turns, or two answers to compare."""
    options = {
        "max_length": recipe.training.max_length,
        "pad_to_multiple_of": recipe.training.pad_to_multiple_of,
        "image_aspect_ratio": processor.image_processor.image_aspect_ratio,
    }
    if recipe.stage == "dpo":
        from xgenmm_hf.training.preference import PreferenceCollator

        # Answers as generation writes them, which is what the policy is judged by.
        return PreferenceCollator(processor, **options)
    return (PretrainingCollator if recipe.stage == "pretrain" else SupervisedCollator)(processor, **options)


def save_run(trainer: Any, recipe: Recipe, counts: dict[str, int], metrics: dict[str, float]) -> None:
    """Saves the trained checkpoint with its processor, remote code, metrics and card.

    Args:
        trainer: The trainer, after training.
        recipe: The run's options.
        counts: Training rows by source.
        metrics: What training and evaluation measured.
    """
    output = recipe.training.output_dir
    if trainer.is_fsdp_enabled:
        # Shards are for going on; what others load is one set of weights.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(output)
    trainer.accelerator.wait_for_everyone()
    notes = trainer.describe_unreadable()
    if trainer.is_world_process_zero():
        trainer.save_metrics("all", metrics, combined=False)
        if recipe.model.use_peft and recipe.modules.merge_adapter:
            merge_adapter(recipe, Path(output) / "merged")
    trainer.save_state()
    write_card(trainer, recipe, counts, metrics, notes)
    if recipe.training.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.wait_for_everyone()


def merge_adapter(recipe: Recipe, folder: Path) -> None:
    """Adds a trained adapter to its base model and saves the sum.

    The base is loaded anew: weights that were quantised for training are merged at full precision.

    Args:
        recipe: The run's options.
        folder: Where the merged checkpoint goes.
    """
    from peft import PeftModel

    recipe.model.load_in_4bit = recipe.model.load_in_8bit = False
    base, processor = load_for_training(recipe)
    merged = PeftModel.from_pretrained(base, recipe.training.output_dir).merge_and_unload()
    merged.save_pretrained(folder)
    processor.save_pretrained(folder)
