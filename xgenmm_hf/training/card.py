"""The model card of a finished run: what it is, how to use it, and how it came about."""

import importlib.metadata
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from xgenmm_hf.inference.source import REPO_ID
from xgenmm_hf.training.arguments import Recipe, describe_options


LIBRARIES = ("xgenmm-hf", "transformers", "trl", "peft", "accelerate", "datasets", "torch")
TITLES = {
    "pretrain": "pre-training",
    "sft": "supervised fine-tuning",
    "dpo": "preference tuning (DPO)",
    "safety": "safety tuning",
}

USE_MODEL = """```python
from transformers import pipeline

pipe = pipeline("image-text-to-text", model="{name}", trust_remote_code=True)
image, question = {{"type": "image", "path": "image.png"}}, {{"type": "text", "text": "What is this?"}}
turn = {{"role": "user", "content": [image, question]}}
print(pipe(text=[turn], max_new_tokens=64, return_full_text=False)[0]["generated_text"])
```"""

USE_ADAPTER = """```python
import xgenmm_hf.auto
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{base}")
model = PeftModel.from_pretrained(model, "{name}")
processor = AutoProcessor.from_pretrained("{name}")
```"""


def write_card(trainer: Any, recipe: Recipe, counts: dict[str, int], metrics: dict[str, float], notes: str) -> None:
    """Writes `README.md` into a run's folder, on the main process.

    Args:
        trainer: The trainer, after training.
        recipe: The run's options.
        counts: Training rows by source; empty for a stream.
        metrics: What training and evaluation measured.
        notes: A sentence about rows that were left out.
    """
    name = (recipe.training.hub_model_id or Path(recipe.training.output_dir).name).split("/")[-1]
    trainer.create_model_card(model_name=name, tags=["xgenmm", "image-text-to-text", recipe.stage])
    if not trainer.is_world_process_zero():
        return
    path = Path(recipe.training.output_dir) / "README.md"
    # TRL's card has the links to the trackers and the tags; its text shows a text-only pipeline.
    card = ModelCard.load(path)
    card.data.pipeline_tag = "image-text-to-text"
    base = recipe.base
    if REPO_ID.fullmatch(base) and not Path(base).exists():
        card.data.base_model = base
    card.text = card_text(recipe, name, counts, metrics, notes)
    card.save(path)


def card_text(recipe: Recipe, name: str, counts: dict[str, int], metrics: dict[str, float], notes: str) -> str:
    """Returns a card's text.

    Args:
        recipe: The run's options.
        name: The model's name.
        counts: Training rows by source.
        metrics: What training and evaluation measured.
        notes: A sentence about rows that were left out.

    Returns:
        Markdown.
    """
    base, title = recipe.base, TITLES[recipe.stage]
    usage = (USE_ADAPTER if recipe.model.use_peft else USE_MODEL).format(name=name, base=base)
    rows = [f"| {source} | {count:,} |" for source, count in counts.items()] or ["| streamed | not counted |"]
    figures = [f"| {key} | {value:,.5g} |" for key, value in metrics.items() if isinstance(value, (int, float))]
    parts = [
        f"\n# {name}\n",
        f"{title[:1].upper()}{title[1:]} of `{base}`, an xGen-MM (BLIP-3) model, with xgenmm-hf and TRL.\n",
        f"## Use\n\n{usage}\n",
        "## Data\n\n| source | rows |\n|---|---:|\n" + "\n".join(rows) + f"\n\n{notes}\n",
        "## Metrics\n\n| metric | value |\n|---|---:|\n" + "\n".join(figures) + "\n",
        f"## Recipe\n\n```yaml\n# xgenmm train {recipe.stage}\n{describe_options(recipe.options)}\n```\n",
        "## Versions\n\n" + "\n".join(f"- {library} {version}" for library, version in versions().items()) + "\n",
    ]
    return "\n".join(parts)


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that took part, where they are installed."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
