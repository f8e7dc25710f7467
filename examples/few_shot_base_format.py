"""Few-shot prompting in the base models' format: examples in the prompt, then the image to describe.

python examples/few_shot_base_format.py
python examples/few_shot_base_format.py new.jpg --shot one.jpg "A dog." --shot two.jpg "A cat." --model path/to/base

The base models were trained on running text with images in it: every example is `<image>`, its text and
`<|endofchunk|>`, and the model continues after the last `<image>`. There are no chat turns.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import xgenmm_hf.auto  # registers xGen-MM with the Auto classes


IMAGES = Path(xgenmm_hf.__file__).parent / "assets" / "images"
END_OF_CHUNK = "<|endofchunk|>"


def default_shots(count: int) -> list[tuple[Path, str]]:
    """Returns the first images that ship with the package, each with its caption."""
    rows = json.loads((IMAGES / "images.json").read_text(encoding="utf-8"))
    return [(IMAGES / row["image"], row["caption"]) for row in rows[:count]]


def main() -> None:
    """Reads the arguments, builds the prompt, and prints its continuation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=IMAGES / "3-banner.png")
    parser.add_argument("--shot", nargs=2, action="append", metavar=("IMAGE", "TEXT"), help="an example; repeat it")
    parser.add_argument("--query", default="", help="text after the last image that the model continues")
    parser.add_argument("--model", default=xgenmm_hf.TINY_BASE_MODEL, help="checkpoint folder or Hub repository")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    args = parser.parse_args()
    shots = args.shot if args.shot is not None else default_shots(2)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=dtype).to(device).eval()

    images = [Image.open(path).convert("RGB") for path in [*(path for path, _ in shots), args.image]]
    prompt = "".join(f"<image>{text}{END_OF_CHUNK}" for _, text in shots) + f"<image>{args.query}"
    inputs = processor(images=images, text=prompt, return_tensors="pt").to(device, dtype)
    # An example ends with the chunk token, and so does the answer.
    ends = [processor.tokenizer.convert_tokens_to_ids(END_OF_CHUNK), processor.tokenizer.eos_token_id]
    with torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=args.max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        )
    answer = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    # `<|endofchunk|>` is no target in pre-training: a text that does not end with it is cut after its first sentence.
    print(f"{answer.strip().split('. ')[0].removesuffix('.')}.")


if __name__ == "__main__":
    main()
