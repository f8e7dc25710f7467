"""How cost grows with images, tiles, rows of a decode step and tokens of a prompt: measured and predicted.

Each curve is drawn with what the formulas predict from its first point: the same share of the limit all along.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.counts import Work, decoder_work, prompt_work, resampler_work, tower_work
from bench.limits import Limits, measure_limits
from bench.parts.text import STEPS, decode_candidate, fill_dynamic
from bench.report import as_record
from bench.session import Session
from bench.shapes import TILES, Setting, make_prompts, make_tiles
from bench.timing import measure
from xgenmm_hf.evaluation.plots import new_figure, save


if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE_COUNTS = (1, 2, 3, 5, 7, 10, 13)
IMAGE_COUNTS = (1, 2, 4, 8, 16)
BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (128, 256, 512, 1024, 1536)
# Tiles of an image in the curve of images: one, or sixteen images would be 10 000 tokens.
ONE_TILE = 1
MEASURED, PREDICTED = "#3b6ea5", "#d1783a"


@dataclass(frozen=True)
class Curve:
    """Cost against one quantity.

    Args:
        name: Name of the file.
        label: What the horizontal axis counts.
        title: What is measured.
        points: Its values.
        work: Work by formula at a value.
        run: Makes what is timed at a value.
    """

    name: str
    label: str
    title: str
    points: Sequence[int]
    work: Callable[[int], Work]
    run: Callable[[int], Callable[[], Any]]


def draw_curves(setting: Setting, folder: Path, on_part: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measures all curves and writes their plots.

    Args:
        setting: What is measured, where and how.
        folder: Where the PNG files go.
        on_part: Called with the name of each curve before it starts.

    Returns:
        The record that JSON holds, with the files in `plots`.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    limits = measure_limits(setting.device, setting.dtype)
    session, rows, plots = Session(setting), [], []
    for curve in make_curves(session):
        if on_part is not None:
            on_part(curve.title)
        found = measure_curve(curve, setting, limits)
        file = folder / f"{curve.name}.png"
        save(plot_curve(curve, found, setting), file)
        rows += found
        plots.append(str(file))
    return {**as_record(setting, limits, rows, {}), "plots": plots}


def make_curves(session: Session) -> list[Curve]:
    """Returns the curves of a preset."""
    config, size = session.config, session.setting.size
    past, latents = TILES * config.resampler_config.num_latents, config.resampler_config.num_latents
    text_tokens = session.setting.text_tokens

    def vision(tiles: int) -> Work:
        return tower_work(config.vision_config, tiles, size) + resampler_work(config, tiles, size)

    def one_row(length: int) -> Work:
        return decoder_work(config.text_config, 1, length, size, kept=1)

    def several(images: int) -> Work:
        return prompt_work(config, images * ONE_TILE, 1, images * ONE_TILE * latents + text_tokens, size)

    def step(rows: int) -> Work:
        return decoder_work(config.text_config, rows, 1, size, past=past + STEPS // 2).times(STEPS)

    def decode(rows: int) -> Callable[[], Any]:
        return decode_candidate(session, rows, past, fill_dynamic, session.model).function

    return [
        Curve("tiles", "tiles", "tower and resampler", TILE_COUNTS, vision, lambda n: encode_tiles(session, n)),
        Curve(
            "images",
            "images of one tile in the prompt",
            "reading a prompt",
            IMAGE_COUNTS,
            several,
            lambda n: read_images(session, n),
        ),
        Curve("length", "tokens of the prompt", "reading text", fitting(session), one_row, lambda n: read(session, n)),
        Curve("batch", "rows", f"{STEPS} decode steps behind {past} tokens", BATCHES, step, decode),
    ]


def fitting(session: Session) -> tuple[int, ...]:
    """Returns the lengths that fit the model's context."""
    context = session.config.text_config.max_position_embeddings
    return tuple(length for length in LENGTHS if length <= context)


def encode_tiles(session: Session, tiles: int) -> Callable[[], Any]:
    """Returns what runs tower and resampler on some tiles."""
    values = make_tiles(session.config, 1 + tiles // TILES, session.setting)["pixel_values"][:tiles]
    model = session.model

    def run() -> Any:
        return model.model.resampler(model.get_vision_features(values).last_hidden_state)

    return run


def read_images(session: Session, images: int) -> Callable[[], Any]:
    """Returns what reads a prompt with several images of one tile each."""
    setting, config = session.setting, session.config
    side, latents = config.tile_size, config.resampler_config.num_latents
    inputs = {
        "input_ids": make_prompts(config, 1, images * latents, setting.text_tokens, setting.device),
        "pixel_values": torch.rand(images, 3, side, side, device=setting.device).to(setting.dtype),
        "image_sizes": torch.full((images, 2), side, device=setting.device),
        "image_num_tiles": torch.ones(images, dtype=torch.long, device=setting.device),
    }
    return lambda: session.model(**inputs, use_cache=True, logits_to_keep=1)


def read(session: Session, length: int) -> Callable[[], Any]:
    """Returns what reads a prompt of text."""
    prompt = make_prompts(session.config, 1, 0, length, session.setting.device)
    return lambda: session.model(input_ids=prompt, use_cache=True, logits_to_keep=1)


@torch.inference_mode()
def measure_curve(curve: Curve, setting: Setting, limits: Limits) -> list[dict[str, Any]]:
    """Measures a curve.

    Args:
        curve: The curve.
        setting: Where and how often.
        limits: The device's limits.

    Returns:
        A record a point: `seconds` measured, `predicted` from the first point, `share` of the limit.
    """
    points: list[dict[str, Any]] = []
    for value in curve.points:
        timing = measure({"run": curve.run(value)}, setting.device, setting.effort)["run"]
        least = limits.seconds(curve.work(value))
        points.append({"curve": curve.name, "value": value, "seconds": timing.seconds, "least": least})
    share = points[0]["least"] / points[0]["seconds"]
    return [
        {**point, "predicted": point["least"] / share, "share": point["least"] / point["seconds"]} for point in points
    ]


def plot_curve(curve: Curve, points: list[dict[str, Any]], setting: Setting) -> "Figure":
    """Draws a curve: measured seconds and the prediction.

    Args:
        curve: The curve.
        points: What `measure_curve` returned.
        setting: What was measured.

    Returns:
        The figure.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    figure = new_figure(5.6, 3.6)
    axes = figure.add_subplot()
    values = [point["value"] for point in points]
    axes.plot(values, [point["seconds"] for point in points], marker="o", color=MEASURED, label="measured")
    predicted = [point["predicted"] for point in points]
    axes.plot(values, predicted, linestyle="--", color=PREDICTED, label="predicted from the first point")
    axes.set(xlabel=curve.label, ylabel="seconds", xticks=values, ylim=(0, None))
    axes.set_title(f"{curve.title} ({setting.preset}, {setting.device.type})", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
