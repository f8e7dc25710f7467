"""Tune a checkpoint on preferred and dispreferred answers about images (DPO), through LoRA.

python examples/dpo.py --model path/to/checkpoint --data vlfeedback.parquet --output runs/dpo
python examples/dpo.py          # the embedded model on a small sample, in seconds

Of each prompt's rated answers the one with the highest mean is preferred and the one with the lowest dispreferred. The
vision tower runs once for an image, not for both answers of both models. The same run without a script:
xgenmm train dpo --config dpo_4b --mixture mixture.yaml
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig
from trl import DPOConfig

import xgenmm_hf
from xgenmm_hf import (
    PreferenceCollator,
    XGenMMDPOTrainer,
    XGenMMForConditionalGeneration,
    XGenMMProcessor,
    load_rows,
    lora_targets,
)


SAMPLE = Path(__file__).resolve().parent / "data"


def main() -> None:
    """Reads the arguments, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--data", type=Path, help="rated answers in VLFeedback's form; default: a small sample")
    parser.add_argument("--images", type=Path, help="folder that the images' paths are relative to")
    parser.add_argument("--output", default="runs/dpo", help="where the adapter goes")
    parser.add_argument("--epochs", type=float, help="default: 1, and 4 on the sample")
    parser.add_argument("--learning-rate", type=float, help="default: 5e-6, and 2e-3 on the sample")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    # The embedded model takes larger steps than the released ones.
    epochs, rate = (1, 5e-6) if args.data else (4, 2e-3)
    data, images = (args.data, args.images) if args.data else (SAMPLE / "answers.jsonl", SAMPLE / "images")

    processor = XGenMMProcessor.from_pretrained(args.model)
    model = XGenMMForConditionalGeneration.from_pretrained(args.model, dtype="float32")
    trainer = XGenMMDPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=args.output,
            num_train_epochs=args.epochs or epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate or rate,
            beta=0.1,
            max_length=4096,  # five tiles of an image take 640 tokens; TRL's default of 1024 is short
            bf16=torch.cuda.is_available(),
            logging_steps=1,
            report_to="none",
        ),
        train_dataset=load_rows("vlfeedback", data, roots={"": images} if images else None).dataset,
        data_collator=PreferenceCollator(processor, max_length=4096),
        processing_class=processor,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=lora_targets(model)),
    )
    trainer.train()
    trainer.save_model(args.output)
    margins = [float(record["rewards/margins"]) for record in trainer.state.log_history if "rewards/margins" in record]
    print(f"Margin of the preferred answers: {margins[0]:.2f} at the first step, {margins[-1]:.2f} at the last.")
    print(f"Saved the adapter to {args.output}.")


if __name__ == "__main__":
    main()
