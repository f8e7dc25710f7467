"""Fine-tune a checkpoint on chats about single images, with TRL's SFTTrainer underneath.

python examples/sft.py --model path/to/checkpoint --data llava.json --images folder --output runs/sft
python examples/sft.py          # three steps of the embedded model on a few drawn images

Only the resampler and the language model learn; the targets are the assistant's answers and nothing else. The same run
without a script: xgenmm train sft --config sft_4b --mixture my_mixture.yaml
"""

import argparse
import tempfile
from pathlib import Path

import torch
from embedded_model.drawn_images import draw_images
from embedded_model.rows import chat_rows, write_lines
from trl import SFTConfig

import xgenmm_hf
from xgenmm_hf import XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.data.adapters import load_rows
from xgenmm_hf.data.lengths import add_lengths
from xgenmm_hf.training.collators import SupervisedCollator
from xgenmm_hf.training.sft import XGenMMSFTTrainer


def draw_data(folder: Path) -> tuple[Path, Path]:
    """Draws 24 images with chats about them, in the LLaVA format; returns the file and the images' folder."""
    draw_images(folder / "images", 24)
    write_lines(folder / "chats.jsonl", chat_rows(count=24, num_images=24, seed=0))
    return folder / "chats.jsonl", folder / "images"


def main() -> None:
    """Reads the arguments, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--data", type=Path, help="JSON or JSON lines in the LLaVA format")
    parser.add_argument("--images", type=Path, help="folder that the images' paths are relative to")
    parser.add_argument("--output", default="runs/sft", help="where the checkpoint goes")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    data, images = args.data, args.images
    if data is None:
        data, images = draw_data(Path(tempfile.mkdtemp()))

    processor = XGenMMProcessor.from_pretrained(args.model)
    model = XGenMMForConditionalGeneration.from_pretrained(args.model, dtype="float32")
    model.model.vision_tower.requires_grad_(False)

    rows = load_rows("llava", data, roots={"": images} if images else None).dataset
    trainer = XGenMMSFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=args.output,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=2e-5,
            lr_scheduler_type="cosine",
            warmup_steps=10,
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
    print(f"Saved to {args.output}; ask it: xgenmm ask image.png --model {args.output} --prompt '...'")


if __name__ == "__main__":
    main()
