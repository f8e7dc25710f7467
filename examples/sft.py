"""Fine-tune a checkpoint on chats about single images, with TRL's SFTTrainer underneath.

python examples/sft.py --model path/to/checkpoint --data llava.json --images folder --output runs/sft
python examples/sft.py          # teaches the embedded model some German, in seconds

Only the resampler and the language model train; the targets are the assistant's answers and nothing else. The same run
without a script: xgenmm train sft --config sft_4b --mixture my_mixture.yaml
"""

import argparse
from pathlib import Path

import torch
from trl import SFTConfig

import xgenmm_hf
from xgenmm_hf import (
    SupervisedCollator,
    XGenMMForConditionalGeneration,
    XGenMMProcessor,
    XGenMMSFTTrainer,
    add_lengths,
    load_rows,
)


SAMPLE = Path(__file__).resolve().parent / "data"


def main() -> None:
    """Reads the arguments, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--data", type=Path, help="JSON or JSON lines in the LLaVA format; default: a small sample")
    parser.add_argument("--images", type=Path, help="folder that the images' paths are relative to")
    parser.add_argument("--output", default="runs/sft", help="where the checkpoint goes")
    parser.add_argument("--epochs", type=float, help="default: 1, and 6 on the sample")
    parser.add_argument("--learning-rate", type=float, help="default: 2e-5, and 2e-3 on the sample")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    # The embedded model takes larger steps than the released ones.
    epochs, rate = (1, 2e-5) if args.data else (6, 2e-3)
    data, images = (args.data, args.images) if args.data else (SAMPLE / "chats.jsonl", SAMPLE / "images")

    processor = XGenMMProcessor.from_pretrained(args.model)
    model = XGenMMForConditionalGeneration.from_pretrained(args.model, dtype="float32")
    model.model.vision_tower.requires_grad_(False)

    rows = load_rows("llava", data, roots={"": images} if images else None).dataset
    trainer = XGenMMSFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=args.output,
            num_train_epochs=args.epochs or epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate or rate,
            lr_scheduler_type="cosine",
            warmup_steps=4,
            max_length=2048,
            bf16=torch.cuda.is_available(),
            logging_steps=1,
            report_to="none",
        ),
        train_dataset=add_lengths(rows, processor),
        data_collator=SupervisedCollator(processor, max_length=2048),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model(args.output)
    losses = [float(record["loss"]) for record in trainer.state.log_history if "loss" in record]
    print(f"Loss: {losses[0]:.2f} at the first step, {losses[-1]:.2f} at the last.")
    print(f"Saved to {args.output}; ask it: xgenmm ask image.png --model {args.output} --prompt '...'")


if __name__ == "__main__":
    main()
