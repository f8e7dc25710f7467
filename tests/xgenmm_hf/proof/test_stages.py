"""The whole recipe at a few rows and steps a stage, through the real command line."""

import json

import pytest

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.loading import load
from xgenmm_hf.proof import __main__ as proof
from xgenmm_hf.proof.stages import STAGES, run_stage, write_mixture


FEW = ("--max_steps", "2", "--per_device_train_batch_size", "4", "--logging_steps", "1", "--bf16", "false")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_data_file_is_read_whole_by_its_adapter(stage, tmp_path):
    from xgenmm_hf.data.mixture import load_mixture

    mixture = load_mixture(write_mixture(stage, tmp_path, scale=0.0005), cache_dir=tmp_path / "cache")
    assert len(mixture.dataset) >= 16
    assert not any(source.report.rejected for source in mixture.report.sources)


@pytest.mark.slow
def test_stages_follow_one_another_and_are_not_run_twice(tmp_path):
    checkpoint = TINY_MODEL
    for stage in STAGES:
        checkpoint = run_stage(stage, checkpoint, tmp_path, scale=0.0005, overrides=FEW)
        again = run_stage(stage, "no such checkpoint", tmp_path, scale=0.0005)
        assert again == checkpoint
    row = proof.measure_once("safety", checkpoint, tmp_path, count=2)
    assert json.loads((tmp_path / "safety.measured.json").read_text()) == row
    assert load(str(checkpoint)).model.config.image_aspect_ratio == "anyres"


def test_a_failing_stage_says_which(tmp_path):
    with pytest.raises(RuntimeError, match="stage pretrain-1 failed .exit code 1"):
        run_stage(STAGES[0], tmp_path / "nothing", tmp_path, scale=0.0005)
