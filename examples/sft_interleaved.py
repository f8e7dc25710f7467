"""Fine-tune a checkpoint on chats about several images, through LoRA, with single-image chats mixed back in.

python examples/sft_interleaved.py --model path/to/checkpoint --mixture mixture.yaml --output runs/interleaved
python examples/sft_interleaved.py          # three steps of the embedded model on a few drawn images

The mixture names the files and how many samples each gives; the adapter sits in the language model alone and is saved
by itself. The same run without a script: xgenmm train sft --config sft_interleaved_lora_4b --mixture mixture.yaml
"""

import argparse
import tempfile
from pathlib import Path

import torch
from embedded_model.drawn_images import draw_images
from embedded_model.rows import chat_rows, pair_rows, write_lines
from peft import LoraConfig
from trl import SFTConfig

import xgenmm_hf
from xgenmm_hf import XGenMMForConditionalGeneration, XGenMMProcessor
from xgenmm_hf.data.lengths import add_lengths
from xgenmm_hf.data.mixture import load_mixture
from xgenmm_hf.training.collators import SupervisedCollator
from xgenmm_hf.training.modules import lora_targets
from xgenmm_hf.training.sft import XGenMMSFTTrainer


MIXTURE = """\
roots:
  "": images
data:
  pairs.jsonl: all
  chats.jsonl: 8
"""


def draw_mixture(folder: Path) -> Path:
    """Draws 24 images, writes chats about one and about two of them, and the mixture that names both files."""
    draw_images(folder / "images", 24)
    write_lines(folder / "pairs.jsonl", pair_rows(count=16, num_images=24, seed=0))
    write_lines(folder / "chats.jsonl", chat_rows(count=24, num_images=24, seed=0))
    (folder / "mixture.yaml").write_text(MIXTURE, encoding="utf-8")
    return folder / "mixture.yaml"


def main() -> None:
    """Reads the arguments, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--mixture", type=Path, help="YAML file that names the training data")
    parser.add_argument("--output", default="runs/interleaved", help="where the adapter goes")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()

    processor = XGenMMProcessor.from_pretrained(args.model)
    model = XGenMMForConditionalGeneration.from_pretrained(args.model, dtype="float32")

    # Images need room: cut where the longest prompts end, not where text-only models do.
    max_length = 4096
    rows = load_mixture(args.mixture or draw_mixture(Path(tempfile.mkdtemp()))).dataset
    trainer = XGenMMSFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=args.output,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            warmup_steps=10,
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
    print(f"Saved the adapter to {args.output}.")


if __name__ == "__main__":
    main()
