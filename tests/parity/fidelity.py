"""Prints how far this package is from the original code on the golden data, as the README's table rows.

    python tests/parity/fidelity.py

Token ids are those of a small tokenizer of the original's form; `--original FOLDER --texts FILE` takes the released
one, which is not in this repository, and a list of texts with the original's ids.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image


TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "support"))

from golden_cases import GOLDEN, GoldenCase  # noqa: E402

from xgenmm_hf import XGenMMImageProcessor  # noqa: E402
from xgenmm_hf.conversion.tokenizer import build_tokenizer  # noqa: E402


def pixel_difference() -> int:
    """Returns the largest difference of a pixel, of 255, over all images and modes."""
    largest = 0
    for case in json.loads((GOLDEN / "images" / "images.json").read_text())["cases"]:
        for mode in ("anyres", "none", "pad"):
            image = Image.open(GOLDEN / "images" / case["file"])
            values = XGenMMImageProcessor(image_aspect_ratio=mode)(images=image)["pixel_values"]
            expected = np.array(Image.open(GOLDEN / "images" / case[mode]["file"])).reshape(-1, 384, 384, 3)
            pixels = ((values.double() + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
            largest = max(largest, int(np.abs(pixels - expected).max()))
    return largest


def token_agreement(original: Path, texts: Path) -> str:
    """Returns how many texts give the original's ids."""
    tokenizer, records = build_tokenizer(original), json.loads(texts.read_text())
    agreeing = sum(tokenizer(record["text"])["input_ids"] == record["ids"] for record in records)
    return f"{agreeing} of {len(records)}"


def model_differences(case: GoldenCase) -> tuple[float, float, str]:
    """Returns the largest differences of vision tokens and logits, and how many answers agree."""
    model = case.model()
    tokens = logits = 0.0
    for index in case.everything:
        batch = case.batch([index])
        with torch.no_grad():
            outputs = model(**batch)
        logits = max(logits, float((outputs.logits[0] - case.expected[f"logits.{index}"]).abs().max()))
        if "pixel_values" in batch:
            expected = torch.cat(
                [case.expected[f"vision_tokens.{index}.{image}"] for image in range(len(case.images(index)))]
            )
            tokens = max(tokens, float((outputs.image_hidden_states - expected).abs().max()))
    agreeing = total = 0
    for beams in (1, 3):
        prompt = case.prompt(case.everything)
        output = model.generate(**prompt, **case.options, num_beams=beams, do_sample=False)
        rows = output[:, prompt["input_ids"].shape[1] :].tolist()
        agreeing += sum(
            row == expected for row, expected in zip(rows, case.case[f"generated_num_beams_{beams}"], strict=True)
        )
        total += len(rows)
    return tokens, logits, f"{agreeing} of {total}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    recorded = TESTS / "fixtures" / "tokens"
    parser.add_argument("--original", type=Path, default=recorded / "source", help="folder with the tokenizer")
    parser.add_argument("--texts", type=Path, default=recorded / "cases.json", help="JSON list of text and ids")
    options = parser.parse_args()
    print(f"Transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"pixels: {pixel_difference()} of 255")
    print(f"token ids: {token_agreement(options.original, options.texts)}")
    for name in ("anyres", "base", "sliding"):
        tokens, logits, generated = model_differences(GoldenCase(name))
        print(f"{name}: vision tokens {tokens:.1e}, logits {logits:.1e}, generated {generated}")


if __name__ == "__main__":
    main()
