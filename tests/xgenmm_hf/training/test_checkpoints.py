"""Which checkpoints count, which stay, and when a run may go on from one."""

import json
import logging
from types import SimpleNamespace

import pytest

from xgenmm_hf.training.arguments import DataArguments, ModuleArguments
from xgenmm_hf.training.checkpoints import (
    MARKER,
    check_not_finished,
    checkpoint_to_resume,
    discard,
    is_complete,
    last_complete,
    mark_complete,
    rotate,
    run_facts,
)


@pytest.fixture
def run(tmp_path):
    """Returns a run with complete checkpoints of the steps 2, 4 and 10 and a half-written one of step 12."""
    for step in (2, 4, 10, 12):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        if step < 12:
            mark_complete(folder, {"step": step})
    return tmp_path


def recipe(output, resume=None, data=None, modules=None, model=None, **changes):
    training = {
        "seed": 1,
        "data_seed": None,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_length": 9,
        "world_size": 1,
        **changes,
    }
    return SimpleNamespace(
        stage="sft",
        training=SimpleNamespace(output_dir=str(output), resume_from_checkpoint=resume, **training),
        model=SimpleNamespace(model_name_or_path="m", use_peft=False, **(model or {})),
        base="m",
        data=DataArguments(mixture="mix.yaml", **(data or {})),
        modules=ModuleArguments(**(modules or {})),
    )


def test_last_complete_is_the_highest_step_with_a_marker(run, caplog):
    with caplog.at_level(logging.WARNING):
        assert last_complete(run) == run / "checkpoint-10"
    assert "half-written checkpoints: checkpoint-12" in caplog.text
    assert last_complete(run / "nothing") is None


def test_discard_removes_the_marker_first(run, monkeypatch):
    monkeypatch.setattr("shutil.rmtree", lambda *args, **kwargs: None)  # killed before the rest went
    discard(run / "checkpoint-10")
    assert last_complete(run) == run / "checkpoint-4"


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, None, [2, 4, 10, 12]),
        (3, None, [4, 10, 12]),
        (1, None, [10]),
        (2, "checkpoint-2", [2, 10]),
        (1, "checkpoint-2", [2, 10]),
    ],
)
def test_rotation_keeps_the_last_complete_and_the_best(run, limit, best, kept):
    rotate(run, limit, str(run / best) if best else None)
    assert sorted(int(path.name.split("-")[1]) for path in run.iterdir()) == kept


def test_run_starts_where_the_options_say(run):
    assert checkpoint_to_resume(recipe(run)) == str(run / "checkpoint-10")
    assert checkpoint_to_resume(recipe(run, True)) == str(run / "checkpoint-10")
    assert checkpoint_to_resume(recipe(run, "false")) is None
    assert checkpoint_to_resume(recipe(run, str(run / "checkpoint-4"))) == str(run / "checkpoint-4")
    assert checkpoint_to_resume(recipe(run / "new")) is None
    with pytest.raises(ValueError, match=r"holds no trainer_state\.json"):
        checkpoint_to_resume(recipe(run, str(run / "checkpoint-99")))


def test_run_with_other_settings_is_not_continued(run):
    last = run / "checkpoint-10"
    mark_complete(last, run_facts(recipe(run)))
    assert checkpoint_to_resume(recipe(run)) == str(last)
    with pytest.raises(ValueError, match="seed 1, now 2; per_device_train_batch_size 2, now 4"):
        checkpoint_to_resume(recipe(run, seed=2, per_device_train_batch_size=4))
    with pytest.raises(ValueError, match="seed 1, now 2.*which resuming cannot apply"):
        checkpoint_to_resume(recipe(run, str(last), seed=2))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("data", "streaming", True),
        ("data", "group_by_modality_length", False),
        ("data", "image_aspect_ratio", "pad"),
        ("data", "anyres_tiles", ["1x2"]),
        ("modules", "unfreeze_vision", True),
        ("modules", "freeze_resampler", True),
        ("modules", "lora_added_tokens", False),
        ("modules", "vision_learning_rate", 1e-6),
        ("model", "lora_r", 8),
        ("model", "lora_alpha", 8),
    ],
)
def test_other_rows_tiles_or_modules_are_other_settings(run, part, name, value):
    mark_complete(run / "checkpoint-10", run_facts(recipe(run)))
    if part == "model":
        mark_complete(run / "checkpoint-10", run_facts(recipe(run, model={name: 4})))
    with pytest.raises(ValueError, match=f"other settings .{name} "):
        checkpoint_to_resume(recipe(run, **{part: {name: value}}))
    mark_complete(run / "checkpoint-10", run_facts(recipe(run, **{part: {name: value}})))
    assert checkpoint_to_resume(recipe(run, **{part: {name: value}})) == str(run / "checkpoint-10")


def test_a_marker_of_before_that_holds_fewer_facts_stays_valid(run):
    mark_complete(run / "checkpoint-10", {"stage": "sft", "mixture": "mix.yaml", "seed": 1})
    assert checkpoint_to_resume(recipe(run, data={"streaming": True})) == str(run / "checkpoint-10")


def test_marker_is_whole_or_absent(tmp_path):
    assert not is_complete(tmp_path)
    mark_complete(tmp_path, {"step": 3})
    assert json.loads((tmp_path / MARKER).read_text()) == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 2e-5), ("lr_scheduler_type", "cosine"), ("warmup_steps", 3), ("weight_decay", 0.1)],
)
def test_settings_of_the_optimizer_are_refused_by_name(run, name, value):
    mark_complete(run / "checkpoint-10", run_facts(recipe(run, **{name: 0})))
    with pytest.raises(ValueError, match=f"{name} 0, now {value}"):
        checkpoint_to_resume(recipe(run, **{name: value}))


def test_finished_run_is_told_from_one_that_goes_on(run, tmp_path):
    assert check_not_finished(run, 10, None)
    (run / "trainer_state.json").write_text('{"global_step": 10}')
    assert not check_not_finished(run, 10, None)
    assert check_not_finished(run, 12, str(run / "checkpoint-10"))
    with pytest.raises(ValueError, match="holds a finished run of 10 steps and no checkpoint"):
        check_not_finished(run, 12, None)
