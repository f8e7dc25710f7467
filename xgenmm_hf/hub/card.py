"""The model card of a repository: metadata that the Hub reads, and text that people read.

What the folder's own card says (a training run's data, recipe and metrics; a conversion's origin) is kept; what it
lacks is added. Sections that depend on the repository are written anew each time that there is something to write.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.files import read_json


TAGS = ("xgenmm", "blip-3")
ORDER = ("Model", "Use", "Data", "Metrics", "Evaluation", "Recipe", "Limits", "Licence", "Citation", "Versions")
OTHER_NAMES = {"License": "Licence", "Usage": "Use", "Limitations": "Limits"}

INTRO = "An xGen-MM (BLIP-3) vision-language model in the `xgenmm-hf` layout."

USE_MODEL = """\
Needs `transformers>=4.57,<6`; the same code runs on 4.57 and on 5.x. The model code is in the repository, hence
`trust_remote_code=True`; where the `xgenmm-hf` package is installed, `import xgenmm_hf.auto` stands for it.

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

repository = "{repo_id}"
processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained(repository, trust_remote_code=True, dtype="auto")

image = Image.open("image.jpg").convert("RGB")
{prompt}
inputs = processor(images=[image], text=prompt, return_tensors="pt").to(model.device, model.dtype)
output = model.generate(**inputs, max_new_tokens=128, do_sample=False)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```

Code written for the originally released checkpoints keeps working on Transformers 4.57
(`AutoModelForVision2Seq`, `AutoTokenizer`, `AutoImageProcessor`, each with `trust_remote_code=True`)."""

USE_ADAPTER = """\
An adapter (PEFT) on top of [{base}]({base_link}). Needs `transformers>=4.57,<6` and `peft`; the same code runs on 4.57
and on 5.x.

```python
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

repository = "{repo_id}"
processor = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("{base}", trust_remote_code=True, dtype="auto")
model = PeftModel.from_pretrained(model, repository)

image = Image.open("image.jpg").convert("RGB")
{prompt}
inputs = processor(images=[image], text=prompt, return_tensors="pt").to(model.device, model.dtype)
output = model.generate(**inputs, max_new_tokens=128, do_sample=False)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```"""

CHAT_PROMPT = """messages = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in this image?"}]}
]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)"""
BASE_PROMPT = 'prompt = "<image>An image of"'

LIMITS = """- The model may describe what is not in an image, read text wrongly, and count or place things wrongly.
- It inherits the biases of the data that its vision tower, its language model and itself were trained on.
- It was not built for decisions about people, nor for medical, legal or safety-critical use.
- Images are read without applying an EXIF orientation; turn such images first."""

CITATION = """```bibtex
@article{xue2024xgenmm,
  title   = {xGen-MM (BLIP-3): A Family of Open Large Multimodal Models},
  author  = {Xue, Le and Shu, Manli and Awadalla, Anas and others},
  journal = {arXiv preprint arXiv:2408.08872},
  year    = {2024}
}
```"""


@dataclass(frozen=True)
class Facts:
    """What the caller says about a model; what is None or empty is taken from the folder's own card.

    Attributes:
        license: The licence as the Hub names it, such as `apache-2.0`.
        base_model: Repository of the model that this one was made from.
        datasets: Dataset repositories that it was trained on.
        results: What `xgenmm eval` found, the content of each results.json.
    """

    license: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    results: Sequence[Mapping[str, Any]] = field(default=())


def write_card(
    folder: Path, repo_id: str, facts: Facts, *, description: Mapping[str, Any] | None = None, base: str | None = None
) -> str:
    """Writes the card of a repository.

    Args:
        folder: The folder; its README.md, if there is one, is built upon.
        repo_id: The repository.
        facts: What the caller says.
        description: What `describe` says about the model; None for an adapter.
        base: An adapter's base model; None for a whole model.

    Returns:
        The card, metadata first.

    Raises:
        ValueError: If no licence is known, an adapter's base is unknown, or the folder's card cannot be read.
    """
    data, text = read_card(folder / "README.md")
    metadata = card_metadata(data, repo_id, facts, base)
    intro, sections = split_sections(text)
    name = repo_id.split("/")[-1]
    intro = re.sub(r"\A\s*# .*\n?", "", intro).strip() or INTRO
    sections["Use"] = usage(repo_id, folder, base, metadata.get("base_model"))
    if description is not None:
        sections["Model"] = model_table(description)
    if facts.results:
        sections["Evaluation"] = results_table(facts.results)
    sections.setdefault("Limits", LIMITS)
    sections["Licence"] = f"The weights: `{metadata['license']}`. The code in the repository: Apache-2.0."
    sections.setdefault("Citation", CITATION)
    known = [title for title in ORDER if title in sections]
    titles = [*known, *(title for title in sections if title not in ORDER)]
    body = "\n\n".join([f"# {name}", intro, *(f"## {title}\n\n{sections[title]}" for title in titles)])
    return dump_card(metadata, body)


def read_card(path: Path) -> tuple[dict[str, Any], str]:
    """Reads a card.

    Args:
        path: A README.md, which may be missing.

    Returns:
        Its metadata and its text.

    Raises:
        ValueError: If its metadata is no YAML mapping.
    """
    import yaml

    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    matter = re.match(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", text, re.DOTALL)
    if matter is None:
        return {}, text
    try:
        data = yaml.safe_load(matter.group(1)) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata at the top of {path} is no YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"The metadata at the top of {path} is a {type(data).__name__}; expected `name: value` lines."
        )
    return data, text[matter.end() :]


def card_metadata(data: Mapping[str, Any], repo_id: str, facts: Facts, base: str | None) -> dict[str, Any]:
    """Completes a card's metadata.

    Args:
        data: The metadata that the folder's card has.
        repo_id: The repository.
        facts: What the caller says; it wins.
        base: An adapter's base model.

    Returns:
        The metadata.

    Raises:
        ValueError: If no licence is known.
    """
    metadata = dict(data)
    metadata["license"] = facts.license or data.get("license")
    if not metadata["license"]:
        raise ValueError("The card needs a licence: say for example --license apache-2.0, or --license other.")
    metadata["library_name"] = "peft" if base is not None else "transformers"
    metadata["pipeline_tag"] = "image-text-to-text"
    metadata["tags"] = list(dict.fromkeys([*as_list(data.get("tags")), *TAGS]))
    base_model = facts.base_model or data.get("base_model") or base
    if base_model:
        metadata["base_model"] = base_model
    if datasets := list(dict.fromkeys([*as_list(data.get("datasets")), *facts.datasets])):
        metadata["datasets"] = datasets
    if facts.results:
        metadata["model-index"] = model_index(repo_id.split("/")[-1], facts.results)
    return metadata


def as_list(value: Any) -> list[Any]:
    """Returns what metadata gives as one value or several as a list."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def split_sections(text: str) -> tuple[str, dict[str, str]]:
    """Splits Markdown at its second-level titles, those inside code blocks left alone.

    Args:
        text: The text of a card.

    Returns:
        What stands before the first title, and the sections by title.
    """
    parts: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in text.splitlines():
        opening = re.match(r"\s*(```+|~~~+)", line)
        if opening and (not fence or line.strip() == fence):
            fence = "" if fence else opening.group(1)
        if not fence and (title := re.match(r"## +(.+?)\s*#*\s*$", line)):
            parts.append((OTHER_NAMES.get(title.group(1), title.group(1)), []))
        else:
            parts[-1][1].append(line)
    return "\n".join(parts[0][1]), {title: "\n".join(lines).strip() for title, lines in parts[1:]}


def usage(repo_id: str, folder: Path, base: str | None, base_model: Any) -> str:
    """Writes how a repository is used, in the form that its model was trained for."""
    settings = read_json(folder / "processor_config.json").get("image_processor") or {}
    mode = settings.get("image_aspect_ratio", "anyres")
    if mode == "anyres" and (folder / "config.json").is_file():
        mode = read_json(folder / "config.json").get("image_aspect_ratio", "anyres")
    prompt = CHAT_PROMPT if mode == "anyres" else BASE_PROMPT
    if base is None:
        return USE_MODEL.format(repo_id=repo_id, prompt=prompt)
    name = as_list(base_model)[0]
    return USE_ADAPTER.format(repo_id=repo_id, prompt=prompt, base=name, base_link=f"https://huggingface.co/{name}")


def model_table(description: Mapping[str, Any]) -> str:
    """Writes a model's parts as a table."""
    vision, resampler, text = description["architecture"].values()
    images, parameters = description["images"], description["parameters"]
    mode = f"tiles of {images['tile']} x {images['tile']} pixels, {images['tokens_per_tile']} tokens each"
    mode = (
        f"any resolution: {mode}" if images["mode"] == "anyres" else f"one tile per image ({images['mode']}): {mode}"
    )
    rows = [
        ("vision tower", f"{vision['type']}, {vision['layers']} layers, width {vision['width']}", "vision tower"),
        ("resampler", f"perceiver, {resampler['layers']} layers, {resampler['latents']} tokens", "resampler"),
        ("language model", f"{text['type']}, {text['layers']} layers, width {text['width']}", "language model"),
        ("head", f"vocabulary of {text['vocabulary']}", "head"),
    ]
    lines = [f"| {name} | {what} | {parameters[part]:,} |" for name, what, part in rows]
    total = f"| all | context of {description['context']} tokens | {parameters['total']:,} |"
    return "\n".join(["| part | | parameters |", "|---|---|---:|", *lines, total, "", f"Images: {mode}."])


def measures(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns an evaluation's scores that are numbers."""
    return {name: value for name, value in result["scores"].items() if isinstance(value, (int, float))}


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Writes evaluations as a table."""
    lines = [
        "| {} | {} | {:.4f} | {} | {} |".format(
            result["task"]["name"], name, value, result["counts"]["evaluated"], result["date"][:10]
        )
        for result in results
        for name, value in measures(result).items()
    ]
    head = ["| task | metric | value | samples | date |", "|---|---|---:|---:|---|"]
    return "\n".join([*head, *lines, "", "Measured with `xgenmm eval`."])


def model_index(name: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Writes evaluations in the form that the Hub shows beside a card."""
    entries = [
        {
            "task": {"type": "image-text-to-text"},
            "dataset": {"type": result["task"]["name"], "name": result["task"]["name"]},
            "metrics": [{"type": metric, "value": value} for metric, value in measures(result).items()],
        }
        for result in results
    ]
    return [{"name": name, "results": entries}]


def dump_card(metadata: Mapping[str, Any], body: str) -> str:
    """Puts metadata and text together."""
    import yaml

    matter = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return f"---\n{matter}---\n\n{body}\n"
