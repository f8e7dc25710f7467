"""Fine-tune a checkpoint on chats about several images, through LoRA, with single-image chats mixed back in.

python examples/sft_interleaved.py --model path/to/checkpoint --mixture mixture.yaml --output runs/interleaved
python examples/sft_interleaved.py          # teaches the embedded model some German, in seconds

The mixture names the files and how many samples each gives; the adapter sits in the language model alone and is saved
by itself. The same run without a script: xgenmm train sft --config sft_interleaved_lora_4b --mixture mixture.yaml
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig
from trl import SFTConfig

import xgenmm_hf
from xgenmm_hf import (
    SupervisedCollator,
    XGenMMForConditionalGeneration,
    XGenMMProcessor,
    XGenMMSFTTrainer,
    add_lengths,
    load_mixture,
    lora_targets,
)


SAMPLE = Path(__file__).resolve().parent / "data" / "mixture.yaml"


def main() -> None:
    """Reads the arguments, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--mixture", type=Path, help="YAML file that names the training data; default: a small sample")
    parser.add_argument("--output", default="runs/interleaved", help="where the adapter goes")
    parser.add_argument("--epochs", type=float, help="default: 1, and 5 on the sample")
    parser.add_argument("--learning-rate", type=float, help="default: 1e-4, and 4e-3 on the sample")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    # The embedded model takes larger steps than the released ones.
    epochs, rate = (1, 1e-4) if args.mixture else (5, 4e-3)

    processor = XGenMMProcessor.from_pretrained(args.model)
    model = XGenMMForConditionalGeneration.from_pretrained(args.model, dtype="float32")

    # Images need room: cut where the longest prompts end, not where text-only models do.
    max_length = 4096
    rows = load_mixture(args.mixture or SAMPLE).dataset
    trainer = XGenMMSFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=args.output,
            num_train_epochs=args.epochs or epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate or rate,
            lr_scheduler_type="cosine",
            warmup_steps=4,
            max_length=max_length,
            bf16=torch.cuda.is_available(),
            logging_steps=1,
            report_to="none",
        ),
        train_dataset=add_lengths(rows, processor),
        data_collator=SupervisedCollator(processor, max_length=max_length),
        processing_class=processor,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=lora_targets(model)),
    )
    trainer.train()
    trainer.save_model(args.output)
    losses = [float(record["loss"]) for record in trainer.state.log_history if "loss" in record]
    print(f"Loss: {losses[0]:.2f} at the first step, {losses[-1]:.2f} at the last.")
    print(f"Saved the adapter to {args.output}.")


if __name__ == "__main__":
    main()
