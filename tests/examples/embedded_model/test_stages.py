"""The whole recipe at a few rows and one step per stage, through the real command line."""

import json
from types import SimpleNamespace

import forked
import pytest
import typer
from embedded_model import __main__ as recipe
from embedded_model.stages import BASE, BASE_FOLLOWS, STAGES, run_stage, write_mixture

from xgenmm_hf import TINY_MODEL, load


@pytest.fixture
def forked_stages(monkeypatch):
    """Stages run in processes that have the libraries imported."""

    def run(command, *, env, check):
        done = forked.run(command[1:], env=env)
        assert not check or done.returncode == 0, done.stderr
        return done

    monkeypatch.setattr("embedded_model.stages.subprocess", SimpleNamespace(run=run))


FEW = ("--max_steps", "1", "--per_device_train_batch_size", "4", "--logging_steps", "1")


@pytest.mark.parametrize("stage", (*STAGES, BASE), ids=lambda stage: stage.name)
def test_every_data_file_is_read_whole_by_its_adapter(stage, tmp_path):
    from xgenmm_hf import load_mixture

    mixture = load_mixture(write_mixture(stage, tmp_path, scale=0.0005), cache_dir=tmp_path / "cache")
    assert len(mixture.dataset) >= 16
    assert not any(source.rejected for source in mixture.sources)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_stages")
def test_stages_follow_one_another_and_are_not_run_twice(tmp_path):
    checkpoint = TINY_MODEL
    kinds = {(stage.verb, stage.adapter): stage for stage in STAGES}  # one stage of each kind, the last one
    for stage in kinds.values():
        checkpoint = run_stage(stage, checkpoint, tmp_path, scale=0.0005, overrides=FEW)
        again = run_stage(stage, "no such checkpoint", tmp_path, scale=0.0005)
        assert again == checkpoint
    last = next(stage for stage in STAGES if stage.name == BASE_FOLLOWS)
    base = run_stage(BASE, run_stage(last, "found", tmp_path), tmp_path, scale=0.0005, overrides=FEW)
    assert load(str(base)).model.config.image_aspect_ratio == "none"
    row = recipe.measure_stage(checkpoint, 2, tmp_path)
    assert list(row) == list(recipe.COLUMNS)
    assert recipe.as_markdown({"finish": row}).count("| finish | ") == 1
    assert load(str(checkpoint)).model.config.image_aspect_ratio == "anyres"


@pytest.mark.usefixtures("forked_stages")
def test_a_half_written_checkpoint_is_no_finished_stage(tmp_path):
    for stage in STAGES:
        merged = tmp_path / stage.name / ("merged" if stage.adapter else "")
        merged.mkdir(parents=True)
        (merged / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="stage pretrain-1 failed"):
        run_stage(STAGES[0], tmp_path / "nothing", tmp_path, scale=0.0005)
    for stage in STAGES:
        (tmp_path / stage.name / "trainer_state.json").write_text("{}")
        merged = tmp_path / stage.name / ("merged" if stage.adapter else "")
        assert run_stage(stage, tmp_path / "nothing", tmp_path) == merged


def test_a_folder_keeps_the_settings_it_was_begun_with(tmp_path):
    recipe.keep_settings(tmp_path, {"scale": 1.0, "start": None})
    recipe.keep_settings(tmp_path, {"scale": 1.0, "start": None})
    with pytest.raises(ValueError, match=r"begun with other settings \(scale 1.0, now 0.5; start None, now a\)"):
        recipe.keep_settings(tmp_path, {"scale": 0.5, "start": "a"})
    assert json.loads((tmp_path / "settings.json").read_text())["scale"] == 1.0


def test_wrong_settings_are_refused_before_anything_runs(tmp_path, monkeypatch):
    recipe.keep_settings(tmp_path, {"scale": 0.5})
    monkeypatch.setattr(recipe, "run_stage", lambda *_: pytest.fail("a stage was run"))
    with pytest.raises(typer.BadParameter, match="other settings"):
        recipe.main(tmp_path)
    with pytest.raises(typer.BadParameter, match="There is no stage 'last'"):
        recipe.main(tmp_path, first="last")


def test_a_run_may_start_with_a_later_stage(tmp_path, monkeypatch):
    run = []
    monkeypatch.setattr(recipe, "run_stage", lambda stage, *_: run.append(stage.name) or tmp_path / stage.name)
    recipe.main(tmp_path / "work", start=tmp_path, first="safety", questions=0)
    assert run == ["safety", "finish"]


@pytest.mark.usefixtures("forked_stages")
def test_a_failing_stage_says_which(tmp_path):
    with pytest.raises(RuntimeError, match="stage pretrain-1 failed .exit code 1"):
        run_stage(STAGES[0], tmp_path / "nothing", tmp_path, scale=0.0005)
