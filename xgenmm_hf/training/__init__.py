"""Training stages: pre-training, supervised fine-tuning, DPO and safety tuning."""

STAGES = ("pretrain", "sft", "dpo", "safety")
