"""`xgenmm train` and `xgenmm recipes` as a user sees them."""

import json
import subprocess
import sys

import pytest
from run_rows import ON_CPU, chat_rows, save_rows
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli.app import app
from xgenmm_hf.cli.recipes import recipes as list_recipes


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_a_recipe_trains_with_overrides(tmp_path):
    rows, recipe = save_rows(chat_rows(4), tmp_path / "rows"), tmp_path / "recipe.yaml"
    recipe.write_text(f"model_name_or_path: {TINY_MODEL}\nmixture: {rows}\nmax_steps: 5\nsave_strategy: 'no'\n")
    options = ["--max-steps", 1, "--per_device_train_batch_size", 1, "--output_dir", tmp_path / "out", *ON_CPU]
    result = invoke("sft", "--config", recipe, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sft", "--config", "sft4b"], "did you mean sft_4b"),
        (["sft", "--max_step", "3"], "There is no option --max_step; did you mean max_steps?"),
        (["sft", "--config", "sft_4b", "--use_cpu", "true"], "There is no model at ./checkpoints/xgen-mm-4b-base"),
        (["dpo", "--use_cpu", "true", "--bf16", "false", "--model_name_or_path", TINY_MODEL], "No data is named"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert message in result.output


def test_unknown_stage_is_a_usage_error():
    assert invoke("rl").exit_code == 2


def test_module_form_gives_one_line_too():
    command = [sys.executable, "-m", "xgenmm_hf.training", "rl"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: Name a stage first: pretrain, sft, dpo, safety.\n")


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    result = invoke("sft")
    assert result.exit_code == 1
    assert "pip install 'xgenmm-hf[train]'" in result.output


def test_every_option_is_listed():
    result = invoke("dpo", "--options")
    assert result.exit_code == 0
    assert all(
        option in result.output for option in ("--beta", "--fsdp", "--lora_r", "--mixture", "--unfreeze_vision")
    )


def test_recipes_are_listed_and_copied(tmp_path, capsys):
    list_recipes(None, None)
    assert "sft_4b" in capsys.readouterr().out.splitlines()
    list_recipes("sft_4b", str(tmp_path))
    assert (tmp_path / "sft_4b.yaml").is_file()
    assert (tmp_path / "mixtures" / "sft.yaml").is_file()
    with pytest.raises(ValueError, match="exists already"):
        list_recipes("sft_4b", str(tmp_path))
