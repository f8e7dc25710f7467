"""The model card of a finished run: what it is, how to use it, and how it was trained."""

from pathlib import Path
from typing import Any

from xgenmm_hf.conversion.model_card import TAGS, new_card, read_card, released_license, set_usage
from xgenmm_hf.inference.provenance import provenance, provenance_rows
from xgenmm_hf.inference.source import REPO_ID
from xgenmm_hf.training.arguments import Recipe, describe_options


TITLES = {
    "pretrain": "Pre-training",
    "sft": "Supervised fine-tuning",
    "dpo": "Preference tuning (DPO)",
    "safety": "Safety tuning",
}


def write_run_card(
    trainer: Any, recipe: Recipe, counts: dict[str, int], metrics: dict[str, float], notes: str
) -> None:
    """Writes `README.md` into a run's folder, on the main process."""
    if not trainer.is_world_process_zero():
        return
    base, folder = recipe.base, Path(recipe.training.output_dir)
    where = recipe.training.hub_model_id or str(folder)
    rows = [f"| {source} | {count:,} |" for source, count in counts.items()] or ["| streamed | not counted |"]
    figures = [f"| {key} | {value:,.5g} |" for key, value in metrics.items() if isinstance(value, (int, float))]
    origin = provenance(base, trainer.model, recipe.model.model_revision)
    sections = {
        "Data": "\n".join(["| source | rows |", "|---|---:|", *rows, "", notes]).strip(),
        "Metrics": "\n".join(["| metric | value |", "|---|---:|", *figures]),
        "Recipe": f"```yaml\n# xgenmm train {recipe.stage}\n{describe_options(recipe.options)}\n```",
        "Provenance": "\n".join(f"- {name}: {value}" for name, value in provenance_rows(origin).items()),
    }
    published = REPO_ID.fullmatch(base) is not None and not Path(base).exists()
    base_card = None if published else read_card(Path(base) / "README.md")
    config = trainer.model.config
    card = new_card(
        Path(where).name,
        f"{TITLES[recipe.stage]} of `{base}`, an xGen-MM (BLIP-3) model, with xgenmm-hf and TRL.",
        sections,
        license=(base_card and base_card.data.license) or released_license(config),
        library_name="peft" if recipe.model.use_peft else "transformers",
        tags=[*TAGS, "trl", recipe.stage],
        base_model=base if published else None,
    )
    adapted = base if recipe.model.use_peft else None
    set_usage(card, where, folder, config, adapted)
    card.save(folder / "README.md")


def write_merged_card(recipe: Recipe, folder: Path, draft: Path, config: Any) -> None:
    """Writes the run's card for its merged model: the same, except that it is used as a whole model."""
    card = read_card(Path(recipe.training.output_dir) / "README.md")
    if card is None:
        return
    card.data.library_name = "transformers"
    set_usage(card, recipe.training.hub_model_id or str(folder), Path(recipe.training.output_dir), config)
    card.save(draft / "README.md")
