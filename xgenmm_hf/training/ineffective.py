"""Refuses options that a stage would ignore.

TRL's and the Trainer's configs have options for data, collators and metrics that our stages make themselves, and many
options have an effect only with another one. A value that asks for what happens anyway is accepted.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


Values = Mapping[str, Any]


class Rule(NamedTuple):
    """When an option has no effect, and what to do instead.

    `harmless` values ask for what happens anyway. `counts` tells from all options whether this one has an effect
    (None: never). An option is also accepted if the run names the option that it `needs`. No `stages` means all.
    """

    remedy: str
    harmless: tuple[Any, ...] = (None, False)
    counts: Callable[[Values], bool] | None = None
    needs: str | None = None
    stages: tuple[str, ...] = ()


def only_with(option: str, *wanted: Any) -> Rule:
    """Returns the rule of options that have an effect only with another one."""
    remedy = f"it has an effect only with {option}{f' {wanted[0]}' if wanted else ''}; set that, or leave this out"
    return Rule(remedy, (), lambda values: values[option] in wanted if wanted else bool(values[option]), option)


PREFERENCES, CONVERSATIONS = ("dpo",), ("pretrain", "sft", "safety")
ANSWERS_ONLY = "the targets are always the assistant's turns, or the completion where a row has one; leave it out"
OUR_ROWS = "rows come from the mixture, in its own form; leave it out"
NO_PACKING = "rows with images are padded, not packed; leave it out, group_by_modality_length saves the padding"
NO_METRICS = "evaluations measure the loss and with eval_generate answers; leave it out"
THE_VERB = "the verb decides what runs; leave it out"
OUR_CODE = "the model's code is this package's; leave it out"
OUR_ORDER = "the mixture and group_by_modality_length decide the order of rows; leave it out"
NO_REFERENCE = "TRL computes no reference in advance for rows with images; leave it out"
ADAPTED = "with an adapter these parts do not train anyway; leave it out"

TABLE: tuple[tuple[str, Rule], ...] = (
    ("assistant_only_loss", Rule(ANSWERS_ONLY, (True,), stages=("sft", "safety"))),
    ("assistant_only_loss", Rule("pre-training counts every text token; leave it out", stages=("pretrain",))),
    ("completion_only_loss", Rule(ANSWERS_ONLY, (None,))),
    ("dataset_text_field dataset_kwargs", Rule(OUR_ROWS, (None,))),
    ("packing padding_free eval_packing", Rule(NO_PACKING)),
    ("packing_strategy", Rule(NO_PACKING, ())),
    ("truncation_mode", Rule("an image may only be cut with all that follows it; leave it out", ("keep_start",))),
    ("shuffle_dataset", Rule(OUR_ORDER)),
    ("group_by_length length_column_name", Rule(OUR_ORDER, (None, False, "length"))),
    (
        "train_sampling_strategy",
        Rule(
            OUR_ORDER, ("random",), lambda v: v["streaming"] or not v["group_by_modality_length"], stages=CONVERSATIONS
        ),
    ),
    ("pad_token", Rule("the checkpoint's tokenizer has a padding token; leave it out", (None,))),
    ("trust_remote_code", Rule(OUR_CODE, (None, False))),
    ("use_liger_kernel liger_kernel_config", Rule("Liger has no kernels for this model; leave it out")),
    ("router_aux_loss_coef", Rule("the language model has no experts; leave it out", (None, 0, 0.0))),
    ("dataset_num_proc", Rule("preference pairs are not measured in advance; leave it out", stages=PREFERENCES)),
    ("do_train do_eval do_predict", Rule(THE_VERB, ())),
    ("overwrite_output_dir", Rule("use resume_from_checkpoint false to start over")),
    ("label_names include_for_metrics include_inputs_for_metrics batch_eval_metrics", Rule(NO_METRICS)),
    ("eval_do_concat_batches", Rule(NO_METRICS, (True,))),
    ("prediction_loss_only", Rule(NO_METRICS, (True, False))),
    ("lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters", only_with("use_peft")),
    ("lora_modules_to_save lora_task_type use_rslora use_dora lora_vision lora_resampler", only_with("use_peft")),
    ("lora_added_tokens merge_adapter", only_with("use_peft")),
    ("freeze_resampler freeze_language_model", Rule(ADAPTED, (False,), lambda v: not v["use_peft"])),
    ("bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage", only_with("load_in_4bit")),
    (
        "vision_learning_rate",
        Rule(
            "the tower is frozen: add unfreeze_vision or lora_vision",
            (None,),
            lambda v: v["unfreeze_vision"] or (v["use_peft"] and v["lora_vision"]),
        ),
    ),
    (
        "resampler_learning_rate",
        Rule(
            "the resampler is frozen; leave it out",
            (None,),
            lambda v: v["lora_resampler"] if v["use_peft"] else not v["freeze_resampler"],
        ),
    ),
    ("eval_generate", Rule("pairs and documents have no question to answer", (0,), stages=("dpo", "pretrain"))),
    ("group_by_modality_length", Rule("pairs keep the trainer's own order; leave it out", stages=PREFERENCES)),
    (
        "group_by_modality_length",
        Rule("a stream keeps its own order; leave it out", (False,), lambda v: not v["streaming"]),
    ),
    (
        "anyres_tiles",
        Rule("one-tile modes have no grids", (None,), lambda v: v["image_aspect_ratio"] in (None, "anyres")),
    ),
    ("precompute_ref_log_probs precompute_ref_batch_size", Rule(NO_REFERENCE)),
    ("ref_model_mixup_alpha ref_model_sync_steps", only_with("sync_ref_model")),
    ("f_alpha_divergence_coef", only_with("f_divergence_type", "alpha_divergence")),
    ("discopop_tau", Rule("it needs loss_type discopop; leave it out", (), lambda v: "discopop" in v["loss_type"])),
)
RULES: dict[str, list[Rule]] = {}
for _names, _rule in TABLE:
    for _name in _names.split():
        RULES.setdefault(_name, []).append(_rule)


def check_effective(stage: str, given: Iterable[str], values: Values) -> None:
    """Raises a `ValueError` if an option would do nothing."""
    given = list(given)
    for name in given:
        for rule in RULES.get(name, ()):
            concerned = (not rule.stages or stage in rule.stages) and rule.needs not in given
            if not concerned or values[name] in rule.harmless or (rule.counts and rule.counts(values)):
                continue
            raise ValueError(f"{name} {values[name]} would do nothing in xgenmm train {stage}: {rule.remedy}.")
