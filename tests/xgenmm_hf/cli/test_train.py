"""`xgenmm train` and `xgenmm recipes` as a user sees them."""

import json

import forked
import pytest
from PIL import Image
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


@pytest.fixture
def captions(tmp_path, monkeypatch):
    """A mixture of a wide image's caption and a malformed one; its cache is in the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (600, 300)).save(tmp_path / "wide.png")
    rows = [{"image": "wide.png", "caption": "A wall."}] * 3 + [{"image": "wide.png", "caption": 3}]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mixture.yaml").write_text("data: {captions.jsonl: {samples: all, format: captions}}\n")
    return tmp_path / "mixture.yaml"


@pytest.mark.parametrize("options", [[], ["--anyres_tiles", "1x1"], ["--image_aspect_ratio", "none"]])
def test_a_dry_run_measures_the_tiles_of_the_training(captions, tmp_path, options):
    from xgenmm_hf.data.mixture import load_mixture
    from xgenmm_hf.training.arguments import parse_recipe
    from xgenmm_hf.training.loading import load_for_training
    from xgenmm_hf.training.run import make_collator

    given = ["--model_name_or_path", TINY_MODEL, "--mixture", captions, *ON_CPU, *options]
    result = invoke("pretrain", *given, "--dry-run", "--output", tmp_path / "out")
    assert result.exit_code == 1 and "Training refuses captions: 1 of 4 records" in result.stderr, result.output
    assert "rejected: 1" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.json", "problems.jsonl", "lengths.png"}
    recipe = parse_recipe("pretrain", [str(word) for word in given])
    processor = load_for_training(recipe)[1]
    row = load_mixture(captions, max_rejected=1.0).dataset[0]
    batch = make_collator(recipe, processor)([row])
    assert report["all"]["tiles"]["largest"] == int(batch["image_num_tiles"].sum())
    assert report["all"]["tokens"]["largest"] == batch["input_ids"].shape[1]


def test_a_dry_run_takes_a_data_file_and_no_saved_rows(tmp_path):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A bus."}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": turns}] * 3))
    given = ["--model_name_or_path", TINY_MODEL, *ON_CPU, "--dry-run"]
    result = invoke("sft", *given, "--mixture", tmp_path / "chats.json")
    assert result.exit_code == 0, result.output
    assert "3 chat rows from 1 source(s)" in result.stdout
    (tmp_path / "dataset_info.json").write_text("{}")
    result = invoke("sft", *given, "--mixture", tmp_path)
    assert result.exit_code == 1
    assert "holds saved rows, which were checked when they were made" in result.stderr


def test_the_output_of_a_dry_run_is_not_a_trainings(tmp_path):
    result = invoke("sft", "--output", tmp_path)
    assert result.exit_code == 1
    assert "--output is for --dry-run; a training's folder is --output_dir." in result.output


def test_unknown_stage_is_a_usage_error():
    assert invoke("rl").exit_code == 2


def test_module_form_gives_one_line_too():
    done = forked.run(["-m", "xgenmm_hf.training", "rl"])
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
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split(None, 1) == ["sft_lora_4b", "Single-image SFT of the 4B model with LoRA, on one GPU"]
        for line in lines
    )
    assert all(len(line.split(None, 1)) == 2 for line in lines)
    # A second variant lies beside the first, and both find the mixture that they share.
    for name in ("sft_4b", "sft_lora_4b"):
        list_recipes(name, str(tmp_path))
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.yaml")}
    assert names == {"sft_4b.yaml", "sft_lora_4b.yaml", "mixtures/sft.yaml"}
    (tmp_path / "mixtures" / "sft.yaml").write_text("data: {}")
    with pytest.raises(ValueError, match="mixtures/sft.yaml exists already with other contents"):
        list_recipes("sft_qlora_4b", str(tmp_path))
    assert not (tmp_path / "sft_qlora_4b.yaml").exists()
