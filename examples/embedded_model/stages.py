"""The stages of the recipe proof: their data files, their recipes, and how one follows the other.

Every stage is an ordinary run of `xgenmm train` on files in public formats; nothing here trains by itself.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from embedded_model.drawn_images import draw_images
from embedded_model.rows import WRITERS, write_lines


NUM_IMAGES = 16_000


@dataclass(frozen=True)
class Source:
    """A data file of a stage.

    Args:
        writer: which rows it holds, a key of `WRITERS`.
        format: the format that the adapters know it by.
        rows: how many.
        seed: seed of the rows.
    """

    writer: str
    format: str
    rows: int
    seed: int = 7


@dataclass(frozen=True)
class Stage:
    """One stage of the proof.

    Args:
        name: what the report calls it; also its folder.
        verb: the verb of `xgenmm train`.
        recipe: the shipped recipe.
        sources: its data files.
        adapter: whether it trains a LoRA adapter, whose merged model the next stage starts from.
    """

    name: str
    verb: str
    recipe: str
    sources: tuple[Source, ...] = field(default=())
    adapter: bool = False


STAGES = (
    # Looking up is learnt from facts alone first; mixed with whole questions it takes many times longer.
    Stage("pretrain-1", "pretrain", "tiny/pretrain", (Source("facts", "captions", 40_000),)),
    Stage(
        "pretrain-2",
        "pretrain",
        "tiny/pretrain",
        (Source("captions", "captions", 200_000), Source("documents", "interleaved", 4_000)),
    ),
    # Finding comes within minutes where words are known already, and only then do comparing and counting.
    Stage("pretrain-3", "pretrain", "tiny/pretrain", (Source("finding", "captions", 20_000),)),
    Stage(
        "pretrain-4",
        "pretrain",
        "tiny/pretrain",
        (Source("comparing", "captions", 96_000), Source("captions", "captions", 32_000)),
    ),
    Stage(
        "pretrain-5",
        "pretrain",
        "tiny/pretrain",
        (Source("reviewing", "captions", 60_000), Source("captions", "captions", 20_000)),
    ),
    Stage("sft", "sft", "tiny/sft", (Source("chats", "llava", 96_000),)),
    Stage(
        "interleaved-1",
        "sft",
        "tiny/sft_interleaved",
        (Source("pairs", "llava", 36_000), Source("chats", "llava", 12_000)),
    ),
    Stage(
        "interleaved-2",
        "sft",
        "tiny/sft_interleaved",
        (Source("harder-pairs", "llava", 24_000, seed=8), Source("chats", "llava", 6_000, seed=8)),
    ),
    Stage("dpo", "dpo", "tiny/dpo", (Source("preferences", "vlfeedback", 6_000),), adapter=True),
    Stage(
        "safety",
        "safety",
        "tiny/safety",
        (
            Source("guard", "vlguard", 2_000),
            Source("allowed", "llava", 4_000),
            Source("allowed-pairs", "llava", 1_000),
        ),
        adapter=True,
    ),
)
# A branch of its own: chat tuning leaves little of the base models' form, so prompts with examples have a model of
# theirs, as in the released family. It follows the last step of pre-training.
BASE = Stage(
    "base",
    "pretrain",
    "tiny/pretrain",
    (Source("examples", "interleaved", 12_000), Source("captions", "captions", 4_000, seed=9)),
)
BASE_FOLLOWS = "pretrain-5"


def run_stage(stage: Stage, model: Path, work: Path, scale: float = 1.0, overrides: tuple[str, ...] = ()) -> Path:
    """Trains one stage, or finds it done.

    Args:
        stage: the stage.
        model: checkpoint it starts from.
        work: folder of the proof; the stage's results go into a folder of its name.
        scale: factor on the numbers of rows, for trying the whole way quickly.
        overrides: further options for `xgenmm train`.

    Returns:
        The trained checkpoint.

    Raises:
        RuntimeError: if the training fails.
    """
    output = work / stage.name
    trained = output / "merged" if stage.adapter else output
    # A run writes it once its weights are there, merged ones too.
    if (output / "trainer_state.json").exists():
        return trained
    mixture = write_mixture(stage, work, scale)
    command = [sys.executable, "-m", "xgenmm_hf.training", stage.verb, "--config", stage.recipe]
    command += ["--model_name_or_path", str(model), "--mixture", str(mixture), "--output_dir", str(output)]
    if stage.adapter:
        command += ["--merge_adapter", "true"]
    finished = subprocess.run([*command, *overrides], env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False)
    if finished.returncode:
        raise RuntimeError(f"The stage {stage.name} failed (exit code {finished.returncode}); see its output above.")
    return trained


def write_mixture(stage: Stage, work: Path, scale: float = 1.0) -> Path:
    """Writes a stage's data files, draws the images they show, and writes the mixture that names them.

    Args:
        stage: the stage.
        work: folder of the proof.
        scale: factor on the numbers of rows and images.

    Returns:
        The mixture's YAML file.
    """
    data, images = work / "data", work / "pictures"
    data.mkdir(parents=True, exist_ok=True)
    num_images = max(64, round(NUM_IMAGES * scale))
    draw_images(images, num_images, processes=os.cpu_count() or 1)
    files = {}
    for source in stage.sources:
        rows = max(16, round(source.rows * scale))
        file = data / f"{stage.name}-{source.writer}.jsonl"
        if not file.exists():
            write_lines(file, WRITERS[source.writer](rows, num_images, source.seed))
        files[file.name] = {"samples": "all", "format": source.format}
    mixture = data / f"{stage.name}.yaml"
    mixture.write_text(yaml.safe_dump({"roots": {"": "../pictures"}, "data": files}), encoding="utf-8")
    return mixture
