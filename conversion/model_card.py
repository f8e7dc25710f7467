"""The README that a converted checkpoint carries."""

import re
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig

_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
{license}tags:
- xgenmm
- blip-3
---

# {name}

An xGen-MM (BLIP-3) checkpoint, converted from the original layout by the `xgenmm-hf` package. The weights are the
original's, renamed; the license and the limits of the original model apply.

| part | |
|---|---|
| vision tower | {vision_type}, {vision_layers} layers, width {vision_width}, tiles of {tile} x {tile} pixels |
| resampler | perceiver, depth {depth}, {latents} tokens a tile |
| language model | {text_type}, {text_layers} layers, width {text_width} |
| images | {images} |

## Use

Needs `transformers>=4.57,<6`. The code is in this folder, hence `trust_remote_code=True`; where the `xgenmm-hf`
package is installed, `import xgenmm_hf.auto` registers the classes and the argument may be left out.

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

path = "."  # this folder, or the repo that holds it
processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True, dtype="auto")
{prompt}
inputs = processor(images=[Image.open("image.jpg")], text=prompt, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=128)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```

Paper: [xGen-MM (BLIP-3): A Family of Open Large Multimodal Models](https://arxiv.org/abs/2408.08872).
"""
_CHAT = """messages = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in this image?"}]}
]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)"""
_BASE = 'prompt = "<image>An image of"'
_MODES = {
    "anyres": "any resolution: an overview tile and up to {tiles} grid tiles an image",
    "none": "one tile an image, squashed to a square",
    "pad": "one tile an image, padded to a square",
}


def model_card(config: "XGenMMConfig", source: Path) -> str:
    """Writes the model card of a converted checkpoint.

    Args:
        config: The model's config.
        source: The folder it was converted from; its README states the license, and its name is the model's.

    Returns:
        The text of README.md.
    """
    vision, text = config.vision_config, config.text_config
    tiles = max(width * height for width, height in config.anyres_grids) // config.tile_size**2
    anyres = config.image_aspect_ratio == "anyres"
    found = _license(source)
    return _CARD.format(
        license=f"license: {found}\n" if found else "",
        name=_name(source),
        vision_type=vision.model_type,
        vision_layers=vision.num_hidden_layers,
        vision_width=vision.hidden_size,
        tile=config.tile_size,
        depth=config.resampler_config.depth,
        latents=config.resampler_config.num_latents,
        text_type=text.model_type,
        text_layers=text.num_hidden_layers,
        text_width=text.hidden_size,
        images=_MODES[config.image_aspect_ratio].format(tiles=tiles),
        prompt=_CHAT if anyres else _BASE,
    )


def _name(source: Path) -> str:
    # A Hub snapshot lies in models--owner--name/snapshots/<revision>.
    for part in reversed(source.absolute().parts):
        if part.startswith("models--"):
            return part.split("--")[-1]
    return source.absolute().name or "xgenmm"


def _license(source: Path) -> str | None:
    """Returns the license that the front matter of the source's README states."""
    readme = source / "README.md"
    if not readme.is_file():
        return None
    text = readme.read_text(encoding="utf-8", errors="replace")
    matter = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    match = re.search(r"^license:\s*([\w.-]+)\s*$", matter.group(1), re.MULTILINE) if matter else None
    return match.group(1) if match else None
