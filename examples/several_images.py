"""Ask one question about several images at once.

python examples/several_images.py
python examples/several_images.py before.jpg after.jpg --prompt "What has changed?" --model path/to/checkpoint

The released checkpoint tuned for this is the interleaved one (instruct-interleave).
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
    parser.add_argument("images", nargs="*", help="in the order the question counts them")
    parser.add_argument("--prompt", default="Which image has a cross?")
    parser.add_argument("--model", default=xgenmm_hf.TINY_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    args = parser.parse_args()
    paths = args.images or sorted(IMAGES.glob("*.png"))[:2]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=dtype).to(device).eval()

    # Every image is one item of the turn; text may also stand between them.
    content = [{"type": "image", "image": Image.open(path).convert("RGB")} for path in paths]
    content.append({"type": "text", "text": args.prompt})
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(device, dtype)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
    answer = output[:, inputs["input_ids"].shape[1] :]
    print(processor.batch_decode(answer, skip_special_tokens=True)[0].strip())


if __name__ == "__main__":
    main()
