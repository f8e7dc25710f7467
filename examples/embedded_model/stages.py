"""The stages of the recipe proof: their data files, their recipes, and how one follows the other.

Every stage is an ordinary run of `xgenmm train` on files in public formats, with Muon as its optimizer in the stages
that train whole matrices.
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
RECIPES = Path(__file__).parent / "recipes"
NOISED_REJECTIONS = Path(__file__).parents[1] / "noised_rejections.py"


@dataclass(frozen=True)
class DataFile:
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
        muon_rate: learning rate of Muon for the layers' matrices, see `embedded_model.train`; None: AdamW for all.
        adapter: whether it trains a LoRA adapter, whose merged model the next stage starts from.
    """

    name: str
    verb: str
    recipe: str
    sources: tuple[DataFile, ...] = field(default=())
    muon_rate: float | None = None
    adapter: bool = False


_PRETRAINING_RATE, _TUNING_RATE = 1e-2, 6e-3


def _pretraining(name: str, *sources: DataFile) -> Stage:
    return Stage(name, "pretrain", "pretrain", sources, _PRETRAINING_RATE)


STAGES = (
    # Looking up is learnt from facts alone first; mixed with whole questions it takes many times longer.
    _pretraining("pretrain-1", DataFile("facts", "captions", 40_000)),
    _pretraining("pretrain-2", DataFile("captions", "captions", 200_000), DataFile("documents", "interleaved", 4_000)),
    # Finding comes within minutes where words are known already, and only then do comparing and counting.
    _pretraining("pretrain-3", DataFile("finding", "captions", 20_000)),
    _pretraining("pretrain-4", DataFile("comparing", "captions", 96_000), DataFile("captions", "captions", 32_000)),
    _pretraining("pretrain-5", DataFile("reviewing", "captions", 60_000), DataFile("captions", "captions", 20_000)),
    Stage("sft", "sft", "sft", (DataFile("chats", "llava", 64_000),), _TUNING_RATE),
    Stage(
        "interleaved",
        "sft",
        "sft_interleaved",
        (DataFile("pairs", "llava", 16_000), DataFile("chats", "llava", 32_000, seed=8)),
        4e-3,
    ),
    Stage("dpo", "dpo", "dpo", (DataFile("preferences", "vlfeedback", 3_000),), adapter=True),
    Stage(
        "safety",
        "safety",
        "safety",
        (
            DataFile("guard", "vlguard", 2_000),
            DataFile("allowed", "llava", 4_000),
            DataFile("allowed-pairs", "llava", 1_000),
        ),
        adapter=True,
    ),
    # All skills at once, at full width: the adapters of the last two stages cannot hold them all.
    Stage(
        "finish",
        "safety",
        "finish",
        (
            DataFile("allowed", "llava", 12_000, seed=19),
            DataFile("allowed-pairs", "llava", 8_000, seed=19),
            DataFile("switching", "llava", 10_000, seed=19),
            DataFile("checking", "llava", 4_000, seed=19),
            DataFile("counting", "llava", 12_000, seed=19),
            DataFile("guard", "vlguard", 1_500, seed=19),
        ),
        3e-3,
    ),
)
# A branch of its own: chat tuning leaves little of the base models' form, so prompts with examples have a model of
# theirs, as in the released family. It follows the last step of pre-training.
BASE = Stage("base", "pretrain", "base", (DataFile("examples", "interleaved", 16_000, seed=14),), 4e-3)
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
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    if stage.verb == "dpo":
        mixture = add_noised_rejections(model, mixture, environment)
    command = [
        sys.executable,
        "-m",
        "embedded_model.train",
        stage.verb,
        "--config",
        str(RECIPES / f"{stage.recipe}.yaml"),
    ]
    command += ["--model_name_or_path", str(model), "--mixture", str(mixture), "--output_dir", str(output)]
    if stage.muon_rate is not None:
        command += ["--muon_rate", str(stage.muon_rate)]
    if stage.adapter:
        command += ["--merge_adapter", "true"]
    finished = subprocess.run([*command, *overrides], env=environment, check=False)
    if finished.returncode:
        raise RuntimeError(f"The stage {stage.name} failed (exit code {finished.returncode}); see its output above.")
    return trained


def add_noised_rejections(model: Path, mixture: Path, environment: dict[str, str]) -> Path:
    """Makes the second rejected answers of a preference stage, or finds them made; returns the folder of all rows."""
    rows = mixture.with_suffix("")
    if not rows.exists():
        command = [sys.executable, str(NOISED_REJECTIONS), "--model", str(model), "--data", str(mixture)]
        subprocess.run([*command, "--output", str(rows), "--batch-size", "32"], env=environment, check=True)
    return rows


def write_mixture(stage: Stage, work: Path, scale: float = 1.0) -> Path:
    """Writes a stage's data files, draws the images they show, and writes the mixture that names them.

    Args:
        stage: the stage.
        work: folder of the proof.
        scale: factor on the numbers of rows and images.

    Returns:
        The mixture's YAML file.
    """
    data, images = work / "data", work / "images"
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
    mixture.write_text(yaml.safe_dump({"roots": {"": "../images"}, "data": files}), encoding="utf-8")
    return mixture
