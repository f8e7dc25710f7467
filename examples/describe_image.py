"""Describe an image, or answer a question about it.

python examples/describe_image.py
python examples/describe_image.py photo.jpg --prompt "What is on the table?" --model path/to/checkpoint
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import xgenmm_hf.auto  # registers xGen-MM with the Auto classes


IMAGES = Path(xgenmm_hf.__file__).parent / "assets" / "images"


def main() -> None:
    """Reads the arguments, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=IMAGES / "3-banner.png")
    parser.add_argument("--prompt", default="Describe this image.")
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=dtype).to(device).eval()

    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": Image.open(args.image).convert("RGB")},
                {"type": "text", "text": args.prompt},
            ],
        }
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(device, dtype)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
    answer = output[:, inputs["input_ids"].shape[1] :]
    print(processor.batch_decode(answer, skip_special_tokens=True)[0].strip())


if __name__ == "__main__":
    main()
