"""Tune a checkpoint on preferred and dispreferred answers about images (DPO), through LoRA.

python examples/dpo.py --model path/to/checkpoint --data vlfeedback.parquet --output runs/dpo
python examples/dpo.py          # three steps of the embedded model on a few drawn images

Of each prompt's rated answers the one with the highest mean is preferred and the one with the lowest dispreferred. The
vision tower runs once for an image, not for both answers of both models. The same run without a script:
xgenmm train dpo --config dpo_4b --mixture mixture.yaml
"""

import argparse
import tempfile
from pathlib import Path

import torch
from embedded_model.drawn_images import draw_images
from embedded_model.rows import preference_rows, write_lines
from peft import LoraConfig
from trl import DPOConfig

import xgenmm_hf
from xgenmm_hf import XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.data.adapters import load_rows
from xgenmm_hf.training.dpo import XGenMMDPOTrainer
from xgenmm_hf.training.modules import lora_targets
from xgenmm_hf.training.preference import PreferenceCollator


def draw_data(folder: Path) -> tuple[Path, Path]:
    """Draws 24 images with rated answers, in VLFeedback's form; returns the file and the images' folder."""
    draw_images(folder / "images", 24)
    write_lines(folder / "answers.jsonl", preference_rows(count=24, num_images=24, seed=0))
    return folder / "answers.jsonl", folder / "images"


def main() -> None:
    """Reads the arguments, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--data", type=Path, help="prompts with rated answers, in VLFeedback's form")
    parser.add_argument("--images", type=Path, help="folder that the images' paths are relative to")
    parser.add_argument("--output", default="runs/dpo", help="where the adapter goes")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    data, images = args.data, args.images
    if data is None:
        data, images = draw_data(Path(tempfile.mkdtemp()))

    processor = XGenMMProcessor.from_pretrained(args.model)
    model = XGenMMForConditionalGeneration.from_pretrained(args.model, dtype="float32")
    trainer = XGenMMDPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=args.output,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=5e-6,
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
    print(f"Saved the adapter to {args.output}.")


if __name__ == "__main__":
    main()
