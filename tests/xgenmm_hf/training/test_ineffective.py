"""Options that a stage would ignore are refused, and every option of TRL's configs was looked at."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments
from trl import DPOConfig, SFTConfig

from xgenmm_hf.training.arguments import parse_recipe
from xgenmm_hf.training.ineffective import RULES


HEAD = ["--model_name_or_path", "m", "--use_cpu", "true", "--bf16", "false"]
# Options of TRL's configs that count in our stages: TRL's code reads them, or ours does.
EFFECTIVE = {
    "activation_offloading",
    "beta",
    "chat_template_path",
    "disable_dropout",
    "dataset_num_proc",
    "eos_token",
    "f_divergence_type",
    "label_smoothing",
    "ld_alpha",
    "loss_type",
    "loss_weights",
    "max_length",
    "model_init_kwargs",
    "pad_to_multiple_of",
    "sync_ref_model",
    "use_weighting",
}


@pytest.mark.parametrize("config", [SFTConfig, DPOConfig])
def test_every_option_of_trl_was_looked_at(config):
    own = {entry.name for entry in fields(config)} - {entry.name for entry in fields(TrainingArguments)}
    assert own <= EFFECTIVE | set(RULES)


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("sft", ["--assistant_only_loss", "false"]),
        ("sft", ["--completion_only_loss", "true"]),
        ("pretrain", ["--assistant_only_loss", "true"]),
        ("sft", ["--packing", "true"]),
        ("sft", ["--shuffle_dataset", "true"]),
        ("sft", ["--dataset_text_field", "answer"]),
        ("sft", ["--lora_r", "8"]),
        ("sft", ["--merge_adapter"]),
        ("sft", ["--use_peft", "--freeze_resampler"]),
        ("sft", ["--use_peft", "--resampler_learning_rate", "1e-4"]),
        ("sft", ["--vision_learning_rate", "1e-6"]),
        ("sft", ["--use_peft", "--bnb_4bit_quant_type", "fp4"]),
        ("sft", ["--image_aspect_ratio", "none", "--anyres_tiles", "1x2"]),
        ("sft", ["--trust_remote_code", "true"]),
        ("sft", ["--do_eval", "true"]),
        ("dpo", ["--padding_free", "true"]),
        ("dpo", ["--precompute_ref_batch_size", "2"]),
        ("dpo", ["--precompute_ref_log_probs", "true"]),
        ("dpo", ["--ref_model_sync_steps", "5"]),
        ("dpo", ["--eval_generate", "5", "--eval_mixture", "m"]),
        ("dpo", ["--group_by_modality_length", "true"]),
    ],
)
def test_option_that_does_nothing_is_refused(stage, options, tmp_path):
    with pytest.raises(ValueError, match=r"would do nothing in xgenmm train") as caught:
        parse_recipe(stage, [*HEAD, "--output_dir", str(tmp_path), *options])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("sft", ["--assistant_only_loss", "true"]),
        ("sft", ["--packing", "false"]),
        ("sft", ["--use_peft", "--lora_r", "8", "--merge_adapter"]),
        ("sft", ["--use_peft", "false", "--lora_r", "8"]),
        ("sft", ["--use_peft", "--lora_vision", "--vision_learning_rate", "1e-6"]),
        ("sft", ["--resampler_learning_rate", "1e-4"]),
    ],
)
def test_option_that_counts_is_taken(stage, options, tmp_path):
    parse_recipe(stage, [*HEAD, "--output_dir", str(tmp_path), *options])
