"""Stages from the command line to a saved checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from run_rows import ON_CPU, chat_rows, preference_rows, save_rows

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.inference.loading import load
from xgenmm_hf.inference.prompt_form import read_prompt_form
from xgenmm_hf.training.guards import TrainingStopped
from xgenmm_hf.training.loading import prompt_form_of
from xgenmm_hf.training.run import run_stage


SMALL = ["--per_device_train_batch_size", "2", "--max_steps", "2", "--save_strategy", "no", *ON_CPU]


def run(stage, rows, tmp_path, *options, model=TINY_MODEL, kind="chat", **further):
    folder = save_rows(rows, tmp_path / f"rows-{stage}", kind)
    given = ["--model_name_or_path", str(model), "--mixture", str(folder), "--output_dir", str(tmp_path / stage)]
    return run_stage(stage, [*given, *SMALL, *options], **further)


def test_sft_saves_a_checkpoint_with_its_card(tmp_path, caplog):
    folder = run("sft", chat_rows(8), tmp_path, "--eval_mixture", str(tmp_path / "rows-sft"))
    model = XGenMMForConditionalGeneration.from_pretrained(folder)
    start = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL)
    assert torch.equal(
        model.model.vision_tower.state_dict()["vision_model.post_layernorm.weight"],
        start.model.vision_tower.state_dict()["vision_model.post_layernorm.weight"],
    )
    assert not torch.equal(model.lm_head.weight.float(), start.lm_head.weight.float())
    XGenMMProcessor.from_pretrained(folder)
    assert (folder / "modeling_xgenmm.py").is_file()
    metrics = json.loads((folder / "all_results.json").read_text())
    assert {"train_loss", "eval_loss"} <= set(metrics)
    card = (folder / "README.md").read_text()
    for part in ("pipeline_tag: image-text-to-text", "| colours | 6 |", "| texts | 2 |", "eval_loss", "max_steps: 2"):
        assert part in card
    assert f"transformers {transformers.__version__}" in card


def test_a_caller_may_bring_an_optimizer(tmp_path):
    """What it does not step stays as it was."""

    def make_optimizer(model, args):
        assert args.learning_rate == 0.5
        return torch.optim.SGD([model.lm_head.weight], lr=args.learning_rate)

    folder = run("sft", chat_rows(4), tmp_path, "--learning_rate", "0.5", make_optimizer=make_optimizer)
    start = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL).state_dict()
    trained = XGenMMForConditionalGeneration.from_pretrained(folder).state_dict()
    assert [name for name, weight in trained.items() if not torch.equal(weight, start[name])] == ["lm_head.weight"]


def test_image_options_of_a_stage_go_into_its_checkpoint(tmp_path):
    folder = run("sft", chat_rows(4), tmp_path, "--anyres_tiles", "1x2", "2x1")
    config = json.loads((folder / "config.json").read_text())
    side = config["vision_config"]["image_size"]
    grids = [[side, 2 * side], [2 * side, side]]
    assert config["anyres_grids"] == grids
    assert json.loads((folder / "preprocessor_config.json").read_text())["anyres_grids"] == grids


def test_adapter_is_merged_and_the_next_stage_starts_from_it(tmp_path):
    options = ["--use_peft", "true", "--lora_r", "4", "--learning_rate", "1e-2"]
    folder = run("dpo", preference_rows(4), tmp_path, *options, "--merge_adapter", kind="preference")
    assert (folder / "adapter_model.safetensors").is_file()
    merged = XGenMMForConditionalGeneration.from_pretrained(folder / "merged")
    start = XGenMMForConditionalGeneration.from_pretrained(TINY_MODEL)
    name = "model.language_model.layers.0.self_attn.qkv_proj.weight"
    assert not torch.equal(merged.state_dict()[name].float(), start.state_dict()[name].float())
    card = (folder / "merged" / "README.md").read_text()
    assert "PeftModel" not in card
    assert str(folder / "merged") in card
    assert "PeftModel" in (folder / "README.md").read_text()
    assert all(part in card for part in ("## Data", "## Metrics", "## Recipe", "library_name: transformers"))
    answering = load(folder, dtype="float32").model
    assert torch.allclose(answering.state_dict()[name], merged.state_dict()[name].float(), atol=1e-5)
    second = run("safety", chat_rows(4), tmp_path, *options, model=folder)
    base = Path(json.loads((second / "adapter_config.json").read_text())["base_model_name_or_path"])
    assert base.parent == second
    start = XGenMMForConditionalGeneration.from_pretrained(base).state_dict()
    assert torch.allclose(start[name].float(), merged.state_dict()[name].float(), atol=1e-5)
    assert load(second, dtype="float32").model.state_dict()[name].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mixture", "nothing.yaml"], "no file and no shipped recipe nothing.yaml"),
        (["--model_name_or_path", "no-such-model"], "There is no model at no-such-model"),
        (["--streaming", "true", "--max_steps", "-1"], "A stream has no length: set max_steps"),
        (["--resume_from_checkpoint", "nowhere"], r"nowhere is no checkpoint of a run"),
        (["--load_in_4bit", "true"], "add use_peft: true"),
    ],
)
def test_mistakes_are_found_before_training(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run("sft", chat_rows(4), tmp_path, *options)


def test_rows_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds rows of kind chat; xgenmm train dpo takes rows of kind preference"):
        run("dpo", chat_rows(4), tmp_path)


def test_streamed_rows_train(tmp_path):
    folder = run("sft", chat_rows(8), tmp_path, "--streaming", "true")
    assert "| streamed | not counted |" in (folder / "README.md").read_text()


def losses_of(folder) -> list[float]:
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_streamed_run_resumes_with_the_same_losses_and_a_finished_one_stays(tmp_path, caplog):
    options = ["--streaming", "true", "--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2"]
    folder = run("sft", chat_rows(8), tmp_path, *options)
    whole = losses_of(folder)
    again = ["--model_name_or_path", TINY_MODEL, "--mixture", str(tmp_path / "rows-sft"), "--output_dir", str(folder)]
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level("INFO", logger="xgenmm_hf"):
        run_stage("sft", [*again, *SMALL, *options])
    assert "has already finished: its 4 steps are done, nothing was changed" in caplog.text
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    # as a kill after step 3 leaves it
    shutil.rmtree(folder / "checkpoint-4")
    (folder / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"learning_rate 2e-05, now 0.001"):
        run_stage("sft", [*again, *SMALL, *options, "--learning_rate", "1e-3"])
    run_stage("sft", [*again, *SMALL, *options])
    assert losses_of(folder) == pytest.approx(whole, abs=1e-6)


def test_interrupted_run_says_what_was_kept(tmp_path, monkeypatch):
    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("xgenmm_hf.training.guards.GuardedTrainerMixin.compute_loss", interrupted)
    with pytest.raises(TrainingStopped, match="Stopped at step 0: no checkpoint is complete yet"):
        run("sft", chat_rows(4), tmp_path)


def test_start_says_the_plan_and_what_is_odd_in_it(tmp_path, caplog):
    with caplog.at_level("INFO", logger="xgenmm_hf"):
        run("sft", chat_rows(4), tmp_path, "--warmup_steps", "5", "--gradient_accumulation_steps", "4")
    assert "Training on 4 rows: batches of 8 rows, 2 steps (2 epochs), 5 of them warm-up" in caplog.text
    assert "All 2 steps are warm-up" in caplog.text
    assert "A batch takes 8 rows and there are 4" in caplog.text


def test_evaluations_answer_rows_and_the_prompt_form_is_stored(tmp_path):
    more = ["--eval_mixture", str(tmp_path / "rows-sft"), "--eval_generate", "3", "--save_strategy", "steps"]
    best = ["--load_best_model_at_end", "true", "--metric_for_best_model", "eval_exact_match", "--save_steps", "1"]
    folder = run("sft", chat_rows(4), tmp_path, *more, *best, "--eval_strategy", "steps", "--eval_steps", "1")
    answers = [json.loads(line) for line in (folder / "eval_answers" / "step-2.jsonl").read_text().splitlines()]
    assert len(answers) == 3
    assert all(answer["question"].startswith(("Which colour?", "Say a colour")) for answer in answers)
    assert (
        json.loads((folder / "all_results.json").read_text())["eval_exact_match"]
        == sum(answer["right"] for answer in answers) / 3
    )
    assert json.loads((folder / "prompt_form.json").read_text()) == {"suffix": "", "system": None}
    (folder / "prompt_form.json").write_text('{"suffix": "\\nBriefly.", "system": null}')
    safe = run("safety", chat_rows(4), tmp_path, model=folder)
    assert read_prompt_form(str(safe)) == ("\nBriefly.", None)


def test_prompt_form_is_what_nine_of_ten_rows_share():
    suffix = "\nAnswer the question using a single word or phrase."
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Why {n}?{suffix}"}]}
        for n in range(10)
    ]
    assert prompt_form_of(rows) == (suffix, "Be brief.")
    plain = [{"messages": [{"role": "user", "content": "Why?"}]}] * 3
    assert prompt_form_of([*rows, *plain]) == ("", None)
