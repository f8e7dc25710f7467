"""Answer the same question about many images, a batch at a time.

python examples/batch_inference.py
python examples/batch_inference.py photos/*.jpg --prompt "Is there a person?" --batch-size 8 --model path/to/checkpoint

Prompts of one batch may hold different numbers of images; padding on the left keeps the answers those of one by one.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import xgenmm_hf.auto  # registers xGen-MM with the Auto classes


IMAGES = Path(xgenmm_hf.__file__).parent / "assets" / "images"


def main() -> None:
    """Reads the arguments, asks batch by batch and prints a line an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*")
    parser.add_argument("--prompt", default="How many shapes are there?")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    args = parser.parse_args()
    paths = [Path(path) for path in args.images] or sorted(IMAGES.glob("*.png"))

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=dtype).to(device).eval()

    for start in range(0, len(paths), args.batch_size):
        batch = paths[start : start + args.batch_size]
        images = [Image.open(path).convert("RGB") for path in batch]
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": args.prompt}]}] for _ in batch
        ]
        prompts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        inputs = processor(images=images, text=prompts, padding=True, padding_side="left", return_tensors="pt").to(
            device, dtype
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
        answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for path, answer in zip(batch, answers, strict=True):
            print(f"{path.name}: {answer.strip()}")


if __name__ == "__main__":
    main()
