"""What the tests ask vLLM, and what `generate` answers to the same requests."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from xgenmm_hf import TINY_MODEL, XGenMMForConditionalGeneration, XGenMMProcessor


IMAGES = Path(TINY_MODEL).parent / "images"


def image(name: str) -> dict[str, str]:
    """An image of the package as an item of a message."""
    return {"type": "image", "path": str(next(IMAGES.glob(f"*-{name}.png")))}


def user(text: str, *names: str) -> dict[str, Any]:
    return {"role": "user", "content": [*(image(name) for name in names), {"type": "text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


CHATS = {
    "one image": [user("What color is the star?", "shapes")],
    "two images": [user("Which image shows more shapes?", "shapes", "banner")],
    "three images": [user("Describe the images.", "tall", "stop", "banner")],
    "wide": [user("Describe the image.", "banner")],
    "tall": [user("Describe the image.", "tall")],
    "long answer": [user("Describe the image in detail.", "shapes")],
    "word": [user("What word is written in the picture?", "cafe")],
    "text only": [{"role": "user", "content": [{"type": "text", "text": "What is a circle?"}]}],
    "second turn": [
        user("What color is the star?", "shapes"),
        assistant("orange"),
        user("Describe the image."),
    ],
    "image in the second turn": [
        user("Describe the image.", "shapes"),
        assistant("A star."),
        user("And now?", "cafe"),
    ],
    "system turn": [
        {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]},
        user("Where is the heart?", "tall"),
    ],
    "tokens as text": [user("Say <|end|> or <image>, then describe the image.", "stop")],
}


class Generator:
    """`generate`, greedy, on a checkpoint.

    Args:
        path: The checkpoint.
        dtype: The dtype to load it in.
        adapter: Folder of a LoRA adapter, or None.
    """

    def __init__(self, path: str | Path, dtype: torch.dtype = torch.float32, adapter: str | None = None):
        self.processor = XGenMMProcessor.from_pretrained(path)
        model = XGenMMForConditionalGeneration.from_pretrained(path, dtype=dtype).eval()
        if adapter:
            model.load_adapter(adapter)
        self.model = model

    def inputs_of(self, request: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Prepares a request as the product's own code does."""
        if "messages" in request:
            options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            inputs = self.processor.apply_chat_template(request["messages"], **options)
        else:
            images = [Image.open(path).convert("RGB") for path in request["images"]]
            inputs = self.processor(text=request["prompt"], images=images or None, return_tensors="pt")
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns prompt, answer, and for each token of the answer the logits it was chosen by."""
        inputs = self.inputs_of(request)
        output = self.model.generate(
            **inputs,
            max_new_tokens=request["max_tokens"],
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        length = inputs["input_ids"].shape[1]
        return {
            "prompt_ids": inputs["input_ids"][0].tolist(),
            "ids": output.sequences[0, length:].tolist(),
            "logits": [step[0].float() for step in output.logits],
        }
