"""The training stages, from options to a saved checkpoint: parse, load, build the trainer, train, save.

There is no training loop here: TRL's trainers run the steps, accelerate places them.
"""

import copy
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.files import output_folder, write_json
from xgenmm_hf.inference.adapters import merge_adapter
from xgenmm_hf.inference.prompt_form import FILE, read_prompt_form
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor
from xgenmm_hf.training.answers import EvaluationAnswers
from xgenmm_hf.training.arguments import FRESH, Recipe, parse_recipe, resume_choice
from xgenmm_hf.training.card import write_merged_card, write_run_card
from xgenmm_hf.training.checkpoints import check_not_finished, checkpoint_to_resume, run_facts, what_was_kept
from xgenmm_hf.training.collators import PreferenceCollator, PretrainingCollator, SupervisedCollator
from xgenmm_hf.training.dpo import XGenMMDPOTrainer
from xgenmm_hf.training.guards import TrainingStopped
from xgenmm_hf.training.loading import (
    checked_source,
    count_sources,
    load_for_training,
    load_stage_rows,
    prompt_form_of,
    with_merged_base,
)
from xgenmm_hf.training.modules import choose_trained, count_parameters, counts_table, lora_config
from xgenmm_hf.training.sft import XGenMMSFTTrainer


logger = logging.getLogger(__name__)

# Takes the model, whose `requires_grad` is set already, and the training arguments; returns a torch optimizer.
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
    recipe = with_merged_base(recipe)
    model, processor = load_for_training(recipe)
    train_rows, eval_rows = load_stage_rows(recipe, processor)
    trainer = build_trainer(recipe, model, processor, train_rows, eval_rows, make_optimizer)
    output = Path(recipe.training.output_dir)
    num_steps, plan, warnings = plan_of(trainer)
    fresh = resume_choice(recipe.training.resume_from_checkpoint) == FRESH
    if not fresh and not check_not_finished(output, num_steps, resumed):
        logger.info("%s has already finished: its %d steps are done, nothing was changed.", output, num_steps)
        return output
    if trainer.is_world_process_zero():
        logger.info("%s", counts_table(count_parameters(trainer.model)))
        logger.info("%s%s", plan, "" if resumed is None else f"; resuming from {resumed}")
        for warning in warnings:
            logger.warning("%s", warning)
    try:
        result = trainer.train(resume_from_checkpoint=resumed)
    except KeyboardInterrupt:
        raise TrainingStopped(f"Stopped at step {trainer.state.global_step}: {what_was_kept(output)}") from None
    metrics = {**result.metrics, **(trainer.evaluate() if eval_rows is not None else {})}
    save_run(trainer, recipe, train_rows, metrics)
    if hasattr(trainer, "end"):  # closes trackers and the process group; newer libraries
        trainer.end()
    return output


def build_trainer(
    recipe: Recipe,
    model: Any,
    processor: XGenMMProcessor,
    train_rows: Any,
    eval_rows: Any = None,
    make_optimizer: MakeOptimizer | None = None,
) -> Any:
    """Builds the trainer of a stage."""
    adapter = lora_config(model, recipe.model, recipe.modules)
    if adapter is None:
        choose_trained(model, recipe.modules)
    args = copy.copy(recipe.training)
    args.model_init_kwargs = None  # the model exists already
    rates = {"vision tower": recipe.modules.vision_learning_rate, "resampler": recipe.modules.resampler_learning_rate}
    shared = {
        "optimizers": (make_optimizer(model, args) if make_optimizer else None, None),
        "model": model,
        "args": args,
        "train_dataset": train_rows,
        "eval_dataset": eval_rows,
        "processing_class": processor,
        "peft_config": adapter,
        "data_collator": make_collator(recipe, processor),
        "max_dropped": recipe.data.max_dropped,
        "learning_rates": {part: rate for part, rate in rates.items() if rate is not None},
        "run_facts": run_facts(recipe),
    }
    if recipe.stage == "dpo":
        return XGenMMDPOTrainer(**shared)
    if recipe.data.eval_generate:
        number = recipe.data.eval_generate
        shared["answers"] = EvaluationAnswers(processor, eval_rows, number, args.per_device_eval_batch_size)
    return XGenMMSFTTrainer(group_by_modality_length=recipe.data.group_by_modality_length, **shared)


def make_collator(recipe: Recipe, processor: XGenMMProcessor) -> Any:
    """Makes the collator of a stage: all text of a document, the assistant's turns, or two answers to compare."""
    options = {
        "max_length": recipe.training.max_length,
        "pad_to_multiple_of": recipe.training.pad_to_multiple_of,
        "image_aspect_ratio": processor.image_processor.image_aspect_ratio,
    }
    kind = {"pretrain": PretrainingCollator, "dpo": PreferenceCollator}.get(recipe.stage, SupervisedCollator)
    return kind(processor, **options)


def save_run(trainer: Any, recipe: Recipe, train_rows: Any, metrics: dict[str, float]) -> None:
    """Saves the trained checkpoint with its processor, remote code, prompt form, metrics and card."""
    output = Path(recipe.training.output_dir)
    if trainer.is_fsdp_enabled:
        # Shards are for resuming; the saved model is one set of weights.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(output))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        trainer.save_metrics("all", metrics, combined=False)
        # DPO and safety tuning keep the prompt form of the model that they start from.
        form = prompt_form_of(train_rows) if recipe.stage == "sft" else read_prompt_form(recipe.base)
        if form is not None:
            write_json(output / FILE, form._asdict())
    write_run_card(trainer, recipe, count_sources(train_rows), metrics, trainer.describe_dropped())
    if recipe.model.use_peft and recipe.modules.merge_adapter and trainer.is_world_process_zero():
        save_merged(recipe, output / "merged")
    # Saved last, because the state in its folder marks a run as finished.
    trainer.save_state()
    if recipe.training.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.wait_for_everyone()


def save_merged(recipe: Recipe, folder: Path) -> None:
    """Merges a trained adapter into its base model, reloaded in full precision, and saves it with the run's files."""
    base, processor = load_for_training(recipe, quantised=False)
    draft_folder = folder.with_name(f".{folder.name}-replaced")
    shutil.rmtree(draft_folder, ignore_errors=True)
    with output_folder(draft_folder) as draft:
        merge_adapter(base, recipe.training.output_dir).save_pretrained(draft)
        processor.save_pretrained(draft)
        form = Path(recipe.training.output_dir) / FILE
        if form.is_file():
            shutil.copyfile(form, draft / FILE)
        write_merged_card(recipe, folder, draft, base.config)
    shutil.rmtree(folder, ignore_errors=True)
    draft_folder.rename(folder)


def plan_of(trainer: Any) -> tuple[int, str, list[str]]:
    """Returns a run's number of steps, a line about its size, and warnings about settings that are likely mistakes.

    Steps are counted as the Trainer counts them; a stream has no number of rows.
    """
    args, rows, warnings = trainer.args, trainer.train_dataset, []
    num_steps, per_pass, told = args.max_steps, args.train_batch_size * args.world_size, "a stream"
    size, epochs = per_pass * args.gradient_accumulation_steps, ""
    if hasattr(rows, "__len__"):
        batches, told = len(rows) / per_pass, f"{len(rows):,} rows"
        batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
        per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
        num_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
        epochs = f" ({num_steps / per_epoch:.3g} epochs)"
        if size > len(rows):
            warnings.append(
                f"A batch takes {size} rows and there are {len(rows)}: lower --gradient_accumulation_steps or "
                "--per_device_train_batch_size."
            )
    num_warmup_steps = args.get_warmup_steps(num_steps)
    if num_warmup_steps >= num_steps > 0:
        warnings.append(
            f"All {num_steps} steps are warm-up, so the learning rate never reaches its value: lower --warmup_steps "
            f"(now {num_warmup_steps})."
        )
    save_steps = math.ceil(args.save_steps if args.save_steps >= 1 else args.save_steps * num_steps)
    if args.save_strategy == "steps" and save_steps > num_steps:
        warnings.append(
            f"The first checkpoint would be at step {save_steps}, after the end: lower --save_steps to be able to "
            "resume a run that was stopped."
        )
    told = f"Training on {told}: batches of {size} rows, {num_steps:,} steps{epochs}"
    return num_steps, f"{told}, {num_warmup_steps:,} of them warm-up", warnings
