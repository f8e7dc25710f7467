"""Options come from a recipe and the command line; a mistake is one sentence."""

import pytest

from xgenmm_hf.training.arguments import describe_options, parse_recipe, resume_choice, split_config


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


HEAD = "model_name_or_path: m\nuse_cpu: true\nbf16: false\n"


def test_command_line_wins_over_the_recipe(recipe_file, tmp_path):
    given = recipe_file(f"{HEAD}output_dir: {tmp_path}\nlearning_rate: 2e-5\nmax_steps: 10\nmixture: mix.yaml\n")
    recipe = parse_recipe("sft", [*given, "--max-steps", "3", "--use_peft", "--lora_vision", "--no_lora_added_tokens"])
    assert (recipe.training.learning_rate, recipe.training.max_steps) == (2e-5, 3)
    assert (recipe.modules.lora_vision, recipe.modules.lora_added_tokens) == (True, False)
    assert recipe.data.mixture == "mix.yaml"
    assert recipe.options["max_steps"] == 3
    assert recipe.options["lora_vision"] is True
    assert "learning_rate: 2e-5" in describe_options(recipe.options)
    assert "weight_decay" not in recipe.options


def test_options_of_trl_and_of_the_trainer_are_reachable(recipe_file, tmp_path):
    given = [*recipe_file(HEAD), "--output_dir", str(tmp_path)]
    assert parse_recipe("dpo", [*given, "--beta", "0.3", "--loss_type", "ipo"]).training.loss_type == ["ipo"]
    recipe = parse_recipe(
        "sft", [*given, "--report_to", "tensorboard", "--optim", "adafactor", "--use_peft", "--lora_r", "4"]
    )
    assert (recipe.training.report_to, recipe.training.optim, recipe.model.lora_r) == (["tensorboard"], "adafactor", 4)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("learning_rat: 1\n", [], r"recipe\.yaml has an unknown option learning_rat; did you mean learning_rate\?"),
        ("- 1\n", [], r"recipe\.yaml must hold a YAML mapping"),
        ("a: [\n", [], r"recipe\.yaml is not valid YAML"),
        ("max_steps: 1.5\n", [], "--max_steps.*: invalid int value: '1.5'"),
        ("learning_rate: true\n", [], "--learning_rate.*: invalid float value: 'True'"),
        (HEAD, ["--max_step", "3"], r"There is no option --max_step; did you mean max_steps\?"),
        (HEAD, ["--max_steps", "many"], "invalid int value: 'many'; --options lists the options"),
        (HEAD, ["--qqqqq", "3"], "There is no option --qqqqq; --options lists them"),
        (HEAD, ["--config", "x"], "--config is given twice"),
        (HEAD, ["--max_dropped", "2"], "max_dropped is 2.0; it is a share between 0 and 1"),
        (HEAD, ["--image_aspect_ratio", "wide"], "use anyres, none or pad"),
        (HEAD, ["--anyres_tiles", "2by1"], "anyres_tiles holds '2by1'; write width x height"),
        ("use_cpu: true\nbf16: false\n", [], "No model is named"),
    ],
)
def test_mistakes_are_one_sentence(recipe_file, text, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_recipe("sft", [*recipe_file(text), *options])
    assert "\n" not in str(caught.value)


def test_unknown_stage_and_missing_recipe():
    with pytest.raises(ValueError, match="no stage 'rl'"):
        parse_recipe("rl", [])
    with pytest.raises(ValueError, match="did you mean sft_4b"):
        split_config(["--config", "sft4b"])
    with pytest.raises(ValueError, match="--config needs a path"):
        split_config(["--config"])


def test_config_in_either_form(recipe_file):
    _, path = recipe_file(HEAD)
    assert split_config(["--config", path, "--a"]) == split_config([f"--config={path}", "--a"])


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, "auto"),
        (True, "auto"),
        ("true", "auto"),
        ("auto", "auto"),
        (False, "false"),
        ("no", "false"),
        ("a/b", "a/b"),
    ],
)
def test_resume_choice(value, choice):
    assert resume_choice(value) == choice
