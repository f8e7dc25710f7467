"""Training, in four stages."""

STAGES = ("pretrain", "sft", "dpo", "safety")
