"""Names of TRL and Transformers that training leans on though they are private or may move, in one list.

`setup.py` has ceilings for these libraries; before a ceiling is raised a test compares this list with the new version.
"""

CHECKED_ON = {
    "transformers": ("4.57.6", "5.24.0"),
    "trl": ("1.16.0",),
    "peft": ("0.21.2",),
    "accelerate": ("1.15.0",),
}
"""Versions that the names below were last compared with, and that the tests run on."""

OVERRIDDEN = {
    "transformers.Trainer": (
        "_get_output_dir",
        "_get_train_sampler",
        "_prepare_inputs",
        "_save_checkpoint",
        "_set_signature_columns_if_needed",
        "compute_loss",
        "create_optimizer",
        "evaluate",
        "train",
    ),
    "trl.trainer.dpo_trainer.DPOTrainer": (
        "_compute_loss",
        "_precompute_ref_logps",
        "compute_ref_log_probs",
    ),
}
"""Methods by class that our trainers override or call."""

ATTRIBUTES = {
    "trl.trainer.dpo_trainer.DPOTrainer": ("_is_vision_dataset", "_precompute_model_hash", "precompute_ref_logps"),
    "trl.trainer.sft_trainer.SFTTrainer": ("_is_vision_dataset",),
    "transformers.Trainer": ("_signature_columns", "callback_handler", "is_fsdp_enabled", "is_deepspeed_enabled"),
    "transformers.integrations.TensorBoardCallback": ("tb_writer",),
}
"""Attributes by the class whose source sets them."""

FUNCTIONS = (
    "trl.trainer.utils.hash_module",
    "trl.data_utils.apply_chat_template",
    "trl.data_utils.prepare_multimodal_messages",
    "peft.tuners.tuners_utils.BaseTunerLayer",
    "peft.utils.AuxiliaryTrainingWrapper",
    "datasets.fingerprint.Hasher",
    "transformers.utils.chat_template_utils.render_jinja_template",
)
"""Functions and classes that are not part of the libraries' documented surface."""
