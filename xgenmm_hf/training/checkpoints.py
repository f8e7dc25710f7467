"""Checkpoints of runs that may be killed at any moment: a checkpoint is complete only if it holds a marker file.

The marker is written last. A half-written folder has none: it is skipped when a run is resumed, and removed when its
step is saved again.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.files import read_json, write_json
from xgenmm_hf.training.arguments import FRESH, LAST, Recipe, resume_choice


logger = logging.getLogger(__name__)

MARKER = "complete.json"
FOLDER = re.compile(r"checkpoint-(\d+)")
# Options that decide the rows, their order, the losses and the steps. All others (logging, saving, evaluation, the
# number of steps) may change when a run is resumed.
_FIELDS = {
    "data": "mixture streaming group_by_modality_length image_aspect_ratio anyres_tiles",
    "modules": "unfreeze_vision freeze_resampler freeze_language_model lora_vision lora_resampler lora_added_tokens "
    "vision_learning_rate resampler_learning_rate",
    "training": "seed data_seed world_size per_device_train_batch_size gradient_accumulation_steps max_length bf16 "
    "fp16 learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio optim optim_args weight_decay "
    "adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor neftune_noise_alpha loss_type "
    "loss_weights beta",
    "model": "use_peft lora_r lora_alpha lora_dropout lora_target_modules lora_modules_to_save use_rslora use_dora "
    "load_in_4bit load_in_8bit",
}


def list_checkpoints(run: Path) -> dict[int, Path]:
    """Lists a run's checkpoint folders, complete or not, by step."""
    if not run.is_dir():
        return {}
    found = ((FOLDER.fullmatch(path.name), path) for path in run.iterdir() if path.is_dir())
    return {int(match[1]): path for match, path in sorted(found, key=lambda pair: pair[1]) if match}


def is_complete(checkpoint: Path) -> bool:
    """Tells whether all of a checkpoint was written."""
    return (checkpoint / MARKER).is_file()


def last_complete(run: str | Path) -> Path | None:
    """Finds the last complete checkpoint of a run."""
    folders = list_checkpoints(Path(run))
    complete = [step for step, path in folders.items() if is_complete(path)]
    passed_over = [path.name for step, path in sorted(folders.items()) if not complete or step > max(complete)]
    if passed_over:
        logger.warning("Skipped half-written checkpoints: %s", ", ".join(passed_over))
    return folders[max(complete)] if complete else None


def mark_complete(checkpoint: Path, facts: dict[str, Any]) -> None:
    """Writes the marker file atomically."""
    write_json(checkpoint / MARKER, facts)


def discard(checkpoint: Path) -> None:
    """Removes a checkpoint, its marker first, so that an interrupted removal does not look complete."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def rotate(run: Path, limit: int | None, best: str | None = None) -> None:
    """Removes the oldest checkpoints beyond `limit`; keeps the last complete one and the best one."""
    if not limit or limit < 1:
        return
    folders = [path for _, path in sorted(list_checkpoints(run).items())]
    protected = [path.resolve() for path in folders if is_complete(path)][-1:]
    protected += [Path(best).resolve()] if best else []
    removable = [path for path in folders if path.resolve() not in protected]
    for path in removable[: max(len(folders) - max(limit, len({*protected})), 0)]:
        discard(path)


def run_facts(recipe: Recipe) -> dict[str, Any]:
    """Returns the options that a resumed run must share with its checkpoint."""
    facts = {
        name: getattr(getattr(recipe, part), name, None) for part, names in _FIELDS.items() for name in names.split()
    }
    # as the marker file holds them: enumerations as text, tuples as lists
    facts |= {"stage": recipe.stage, "model": recipe.model.model_name_or_path}
    return json.loads(json.dumps(facts, default=str))


def checkpoint_to_resume(recipe: Recipe) -> str | None:
    """Returns the checkpoint that a run resumes from, or None if it starts from the beginning."""
    choice = resume_choice(recipe.training.resume_from_checkpoint)
    if choice == FRESH:
        return None
    path = last_complete(recipe.training.output_dir) if choice == LAST else Path(choice)
    if path is None:
        return None
    if not (path / "trainer_state.json").is_file():
        raise ValueError(f"{path} is no checkpoint of a run: it holds no trainer_state.json.")
    written = read_json(path / MARKER) if is_complete(path) else {}
    differing = [
        f"{name} {written[name]}, now {now}"
        for name, now in run_facts(recipe).items()
        if written.get(name, now) != now
    ]
    if differing:
        raise ValueError(
            f"{path} was written by a run with other settings ({'; '.join(differing)}), which resuming cannot apply: "
            "set them back, or start a new run with another --output_dir (--resume_from_checkpoint false restarts "
            "this one)."
        )
    return str(path)


def check_not_finished(run: str | Path, steps: int, resumed: str | None) -> bool:
    """Returns whether a run has steps left; raises a `ValueError` if it would overwrite a finished run."""
    state = Path(run) / "trainer_state.json"
    done = int(read_json(state)["global_step"]) if state.is_file() else None
    if done is not None and done < steps and resumed is None:
        raise ValueError(
            f"{run} holds a finished run of {done} steps and no checkpoint to resume from: use another --output_dir, "
            "or --resume_from_checkpoint false to overwrite it."
        )
    return done is None or done < steps


def what_was_kept(run: str | Path) -> str:
    """Returns the end of a message about a stopped run: its last complete checkpoint, and how to resume."""
    last = last_complete(run)
    if last is None:
        return "no checkpoint is complete yet, so nothing was kept; lower save_steps for long runs."
    return f"{last} is complete; run the same command again to resume from it."
