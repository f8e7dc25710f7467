"""The model card: metadata that the Hub reads, and text that people read.

Conversion, training runs and `xgenmm push` write the same card. Text that depends on the model's place is a part
between two comments; pushing rewrites the parts and keeps the rest of the text.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgenmm_hf.conversion.files import one_line, read_json
from xgenmm_hf.conversion.tensors import Shape


if TYPE_CHECKING:
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig

TAGS = ("xgenmm", "blip-3")
TASK = "image-text-to-text"
# The parts of a model, and how the names of their tensors begin.
PARTS = {
    "vision tower": "model.vision_tower.",
    "resampler": "model.resampler.",
    "language model": "model.language_model.",
    "head": "lm_head.",
    "total": "",
}
USE, EVALUATION = "use", "evaluation"

_SNIPPET = """\
Needs `transformers>=4.57.1,<6`{needs}. The model code is in the repository, hence `trust_remote_code=True`; where the
`xgenmm-hf` package is installed, `import xgenmm_hf.auto` replaces it.

```python
{imports}from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

repository = {where}
processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained({weights}, trust_remote_code=True, dtype="auto")
{adapter}
image = Image.open("image.jpg").convert("RGB")
{prompt}
inputs = processor(images=[image], text=prompt, return_tensors="pt").to(model.device, model.dtype)
output = model.generate(**inputs, max_new_tokens=128, do_sample=False)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```"""
_CHAT_PROMPT = """messages = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in this image?"}]}
]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)"""
_BASE_PROMPT = 'prompt = "<image>An image of"'

LIMITS = """- The model may describe what is not in an image, read text wrongly, and count or place things wrongly.
- It inherits the biases of the data that its vision tower, its language model and itself were trained on.
- It was not built for decisions about people, nor for medical, legal or safety-critical use."""
CITATION = """```bibtex
@article{xue2024xgenmm,
  title   = {xGen-MM (BLIP-3): A Family of Open Large Multimodal Models},
  author  = {Xue, Le and Shu, Manli and Awadalla, Anas and others},
  journal = {arXiv preprint arXiv:2408.08872},
  year    = {2024}
}
```"""


def released_license(config: "XGenMMConfig") -> str:
    """Returns the licence of the release that a model descends from: only the first one excludes commercial use."""
    return "cc-by-nc-4.0" if config.resampler_config.text_conditioned else "apache-2.0"


def new_card(title: str, intro: str, sections: Mapping[str, str], **metadata: Any) -> Any:
    """Returns a card with metadata, an empty part for usage, the sections, limits and citation."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(**{"library_name": "transformers", "pipeline_tag": TASK, "tags": list(TAGS), **metadata})
    after = {**sections, "Limits": LIMITS, "Citation": CITATION}
    body = "\n\n".join(
        [f"# {title}", intro, "## Use", _part(USE, ""), *(f"## {name}\n\n{text}" for name, text in after.items())]
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def read_card(path: Path) -> Any:
    """Returns the card in a file, or None if there is no file."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if not path.is_file():
        return None
    try:
        return ModelCard(path.read_text(encoding="utf-8", errors="replace"))
    except (YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"The metadata at the top of {path} is no YAML mapping ({one_line(error)}).") from error


def set_part(card: Any, name: str, text: str) -> None:
    """Replaces the text between a part's two comments; a missing part is added at the end of the card."""
    start, end = _part(name, "").split("\n\n")
    before, _, rest = card.text.partition(start)
    _, closed, after = rest.partition(end)
    if not closed:
        before, after = f"{card.text.rstrip()}\n\n## {name.capitalize()}\n\n", "\n"
    card.text = before + _part(name, text) + after


def _part(name: str, text: str) -> str:
    return f"<!-- xgenmm: {name} -->\n{text}\n<!-- xgenmm: end of {name} -->"


def is_tuned_on_chats(folder: Path, config: "XGenMMConfig | None" = None) -> bool:
    """Tells whether a folder's model takes chats: base models have no chat template."""
    tokenizer = folder / "tokenizer_config.json"
    if not tokenizer.is_file():
        return config is None or config.image_aspect_ratio != "none"
    return (folder / "chat_template.jinja").is_file() or "chat_template" in read_json(tokenizer)


def set_usage(card: Any, where: str, folder: Path, config: Any = None, base: str | None = None) -> None:
    """Writes how the model (with a base, the adapter) of a folder is used, in the form that it was trained for."""
    text = _SNIPPET.format(
        needs=" and `peft`" if base else "",
        imports="from peft import PeftModel\n" if base else "",
        where=json.dumps(where),
        weights=json.dumps(base) if base else "repository",
        adapter="model = PeftModel.from_pretrained(model, repository)\n" if base else "",
        prompt=_CHAT_PROMPT if is_tuned_on_chats(folder, config) else _BASE_PROMPT,
    )
    set_part(card, USE, text)


def count_parameters(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Counts the parameters of a model's parts and their total, by the names and shapes of its tensors."""
    return {
        part: sum(prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
        for part, prefix in PARTS.items()
    }


def model_table(config: "XGenMMConfig", shapes: Mapping[str, Shape]) -> str:
    """Writes a model's parts and how it cuts images."""
    vision, resampler, text = config.vision_config, config.resampler_config, config.text_config
    facts = (
        f": {vision.model_type}, {vision.num_hidden_layers} layers, width {vision.hidden_size}",
        f": perceiver, {resampler.depth} layers, {resampler.num_latents} tokens per tile",
        f": {text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}, context of "
        f"{text.max_position_embeddings} tokens",
        f": vocabulary of {text.vocab_size}",
        "",
    )
    counts = count_parameters(shapes).items()
    lines = [f"| {part}{fact} | {count:,} |" for (part, count), fact in zip(counts, facts, strict=True)]
    tile = f"{config.tile_size} x {config.tile_size} pixels"
    if config.image_aspect_ratio == "anyres":
        most = max(width * height for width, height in config.anyres_grids) // config.tile_size**2
        images = f"any resolution: an overview tile and up to {most} grid tiles of {tile} per image"
    else:
        images = f"one tile of {tile} per image ({config.image_aspect_ratio})"
    return "\n".join(["| part | parameters |", "|---|---:|", *lines, "", f"Images: {images}."])


def add_results(card: Any, results: Sequence[Mapping[str, Any]], name: str, note: str = "") -> None:
    """Adds results of `xgenmm eval` and their prompts, as a table and as metadata for the Hub."""
    from huggingface_hub import EvalResult

    card.data.model_name, card.data.eval_results = name, []
    lines = ["| task | metric | value | samples | date | prompt |", "|---|---|---:|---:|---|---|"]
    for result in results:
        task, asked = result["task"]["name"], _prompt_in_words(result["prompt"])
        facts = f"{result['counts']['evaluated']} | {result['date'][:10]} | {asked}"
        for metric, value in result["scores"].items():
            if isinstance(value, (int, float)):
                found = EvalResult(TASK, task, task, metric, value, metric_args={"prompt": asked})
                card.data.eval_results.append(found)
                lines.append(f"| {task} | {metric} | {value:.4f} | {facts} |")
    set_part(card, EVALUATION, "\n".join([*lines, "", " ".join(["Measured with `xgenmm eval`.", note]).strip()]))


def _prompt_in_words(prompt: Mapping[str, Any]) -> str:
    """Names a prompt's form, protocol and shots, and the ends of its questions."""
    shots = f", {prompt['shots']} shots" if prompt.get("shots") else ""
    ends = " or ".join(f'"{" ".join(text.split())}"' for text in prompt.get("suffixes", []) if text.strip())
    protocol = "" if prompt.get("protocol", "xgenmm") == "xgenmm" else f", {prompt['protocol']}"
    how = f"{prompt['form']} form{protocol}{shots}"
    return (how + (f"; ends with {ends}" if ends else "")).replace("|", "\\|")
