"""Every shipped recipe is found, has no unknown option, and starts with its own settings on a random 4-layer model."""

import pytest
import yaml
from run_rows import chat_rows, preference_rows, pretraining_rows, save_rows

from xgenmm_hf import TINY_MODEL, XGenMMConfig, XGenMMForConditionalGeneration, XGenMMProcessor, recipes
from xgenmm_hf.data.mixture import read_mixture
from xgenmm_hf.training.arguments import RecipeParser, parse_recipe, read_recipe
from xgenmm_hf.training.run import run_stage


RECIPES = [name for name in recipes.names() if name.endswith(("_4b", "_14b"))]
STAGES = ("pretrain", "sft", "dpo", "safety")
ROWS = {"pretrain": (pretraining_rows, "pretraining"), "dpo": (preference_rows, "preference")}


def stage_of(name: str) -> str:
    return next(stage for stage in STAGES if name.startswith(stage))


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """Returns a function that makes a random model of four layers, shaped like the 4B or the 14B one."""
    made = {}

    def make(size: str) -> str:
        if size not in made:
            config = XGenMMConfig.from_pretrained(TINY_MODEL)
            text, vision = config.text_config, config.vision_config
            text.num_hidden_layers = vision.num_hidden_layers = 4
            text.hidden_size, text.intermediate_size, text.num_attention_heads = 64, 128, 4
            text.num_key_value_heads = 4 if size == "4b" else 1
            folder = tmp_path_factory.mktemp(size)
            XGenMMForConditionalGeneration(config).save_pretrained(folder)
            XGenMMProcessor.from_pretrained(TINY_MODEL).save_pretrained(folder)
            made[size] = str(folder)
        return made[size]

    return make


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Returns a function that saves rows of a stage's kind."""
    saved = {}

    def save(stage: str) -> str:
        make, kind = ROWS.get(stage, (chat_rows, "chat"))
        if kind not in saved:
            saved[kind] = str(save_rows(make(6), tmp_path_factory.mktemp(kind) / "rows", kind))
        return saved[kind]

    return save


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_starts_on_a_random_model(name, random_model, rows, tmp_path):
    stage, size = stage_of(name), name.rpartition("_")[2]
    # What a test must change: model, data, place, device, and how much of it there is.
    given = ["--config", name, "--model_name_or_path", random_model(size), "--mixture", rows(stage)]
    given += ["--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--max-steps", "1"]
    given += [
        "--per_device_train_batch_size",
        "1",
        "--gradient_accumulation_steps",
        "1",
        "--dataloader_num_workers",
        "0",
    ]
    given += ["--logging_steps", "1", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true"]
    if "qlora" in name:
        given += ["--load_in_4bit", "false"]  # bitsandbytes needs a GPU
    folder = run_stage(stage, given)
    adapter = read_recipe(recipes.find(name), RecipeParser(stage)).get("use_peft", False)
    assert (folder / ("adapter_model.safetensors" if adapter else "model.safetensors")).is_file()
    assert (folder / "processor_config.json").is_file()
    card = (folder / "README.md").read_text()
    assert f"xgenmm train {stage}" in card
    assert "train_loss" in card


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_file_is_found_and_known(name):
    path = recipes.find(name)
    if name.startswith("mixtures/"):
        assert read_mixture(path).sources
    elif name.startswith("accelerate/"):
        assert yaml.safe_load(path.read_text())["compute_environment"] == "LOCAL_MACHINE"
    else:
        parse_recipe(stage_of(name), ["--config", str(path), "--use_cpu", "true", "--bf16", "false"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_names_a_shipped_mixture(name):
    path = recipes.find(name)
    assert (
        recipes.find(read_recipe(path, RecipeParser(stage_of(name)))["mixture"], beside=path.parent).parent.name
        == "mixtures"
    )


def test_published_sft_settings():
    for size in ("4b", "14b"):
        recipe = read_recipe(recipes.find(f"sft_{size}"), RecipeParser("sft"))
        assert recipe["learning_rate"] == 2e-5
        assert (recipe["lr_scheduler_type"], recipe["warmup_steps"]) == ("cosine", 2000)
        assert (recipe["weight_decay"], recipe["max_grad_norm"], recipe["bf16"]) == (0.0, 1.0, True)
        assert recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] == 8
        assert recipe["anyres_tiles"] == ["1x2", "2x1", "2x2", "3x1", "1x3"]
    assert read_recipe(recipes.find("safety_4b"), RecipeParser("safety"))["num_train_epochs"] == 3


def test_published_mixture_ratios():
    first = {
        source.name: float(source.share) for source in read_mixture(recipes.find("mixtures/pretrain_stage1")).sources
    }
    mint = [first[name] for name in ("mint-html", "mint-pdf", "mint-arxiv")]
    assert sum(mint) == 32.5
    assert [share / mint[2] for share in mint] == [7, 5, 1]
    assert sum(first.values()) == 100
    second = {
        source.name: float(source.share) for source in read_mixture(recipes.find("mixtures/pretrain_stage2")).sources
    }
    assert second["ocr-hd-30m"] == second["idl"] == second["kale"] == 10
    assert sum(second.values()) == 90


@pytest.mark.parametrize("name", ["sft_4b", "4b/sft", "4b/sft.yaml", recipes.RECIPES / "4b" / "sft.yaml"])
def test_ways_to_name_a_recipe(name):
    assert recipes.find(name) == recipes.RECIPES / "4b" / "sft.yaml"


def test_unknown_recipe_suggests_close_names(tmp_path):
    with pytest.raises(ValueError, match="did you mean sft_4b"):
        recipes.find("stf_4b")
    with pytest.raises(ValueError, match="no file and no shipped recipe"):
        recipes.find(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
def test_deepspeed_itself_reads_the_config(name):
    config = pytest.importorskip("deepspeed.runtime.config")
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DeepSpeedPlugin

    shipped = load_config_from_file(str(recipes.find(f"accelerate/{name}"))).deepspeed_config
    plugin = DeepSpeedPlugin(
        zero_stage=shipped["zero_stage"],
        gradient_clipping=shipped["gradient_clipping"],
        gradient_accumulation_steps=4,
        offload_optimizer_device=shipped["offload_optimizer_device"],
        offload_param_device=shipped["offload_param_device"],
        zero3_init_flag=shipped["zero3_init_flag"],
        zero3_save_16bit_model=shipped.get("zero3_save_16bit_model", False),
    )
    values = {"train_micro_batch_size_per_gpu": 2, "train_batch_size": 8, "bf16": {"enabled": True}}
    read = config.DeepSpeedConfig({**plugin.deepspeed_config, **values, "steps_per_print": 10})
    assert read.zero_config.stage == int(name[-1])
    assert read.gradient_accumulation_steps == 4
    assert read.gradient_clipping == 1.0
    assert read.bfloat16_config.enabled
