"""What is measured: each part answers one question of a user, beside a baseline in the same run."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from measuring import Candidate, Limits, compare, count_flops
from PIL import Image
from shapes import TILES, build_model, build_processor, make_images, make_prompt, preset_config
from transformers import DynamicCache

from xgenmm_hf.inference.feature_cache import FeatureCache
from xgenmm_hf.modeling.tiling_xgenmm import fit_into_grid, select_grids


STEPS = 8
QUESTIONS = ("What color is it?", "How many are there?", "What stands on the left?", "Is there a dog?")
Rows = list[dict[str, Any]]


@dataclass
class BenchmarkRun:
    """One run: the shape, the device, and a model and a processor that are built when first needed."""

    preset: str
    device: torch.device
    dtype: torch.dtype
    limits: Limits
    rounds: int = 5

    @cached_property
    def config(self) -> Any:
        """The preset's config."""
        return preset_config(self.preset)

    @cached_property
    def model(self) -> Any:
        """The preset's model with random weights."""
        return build_model(self.config, self.device, self.dtype)

    @cached_property
    def processor(self) -> Any:
        """The preset's processor."""
        return build_processor(self.config)

    def compare(self, part: str, unit: str, candidates: Mapping[str, Candidate]) -> Rows:
        """Measures candidates of this run."""
        return compare(part, unit, candidates, self.device, self.limits, self.rounds)


def measure_images(bench: BenchmarkRun) -> Rows:
    """Images per second of the image processor, beside the plain pipeline and resizing alone."""
    tiles, images = bench.processor.image_processor, make_images(bench.config, 16)
    if not torch.equal(tiles(images[:2])["pixel_values"], cut_plainly(tiles, images[:2])):
        raise RuntimeError("The image processor's pixels differ from those of the plain pipeline.")
    plain = "one tile after another"
    return bench.compare(
        "images",
        "images",
        {
            plain: Candidate(lambda: cut_plainly(tiles, images), 16),
            "image processor": Candidate(lambda: tiles(images), 16, baseline=plain),
            "resizing alone": Candidate(lambda: resize_alone(tiles, images), 16, baseline=plain),
        },
    )


def resize_alone(tiles: Any, images: list[Image.Image]) -> list[tuple[Image.Image, Image.Image]]:
    """Resizes images to one tile and to fit their grids, which no pipeline can do without."""
    side, bicubic = tiles.size["height"], Image.Resampling.BICUBIC
    sizes = torch.tensor([(image.height, image.width) for image in images])
    resized = []
    for image, grid in zip(images, select_grids(sizes, tiles.anyres_grids).tolist(), strict=True):
        height, width, _, _ = fit_into_grid(image.height, image.width, *grid)
        resized.append((image.resize((side, side), bicubic), image.resize((width, height), bicubic)))
    return resized


def cut_plainly(tiles: Any, images: list[Image.Image]) -> torch.Tensor:
    """Cuts images as a plain pipeline does: every tile cropped, converted and normalised by itself."""
    side = tiles.size["height"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tiles.image_mean, tiles.image_std))
    sizes = torch.tensor([(image.height, image.width) for image in images])
    cut = []
    resized = resize_alone(tiles, images)
    for image, grid, (overview, fitted) in zip(
        images, select_grids(sizes, tiles.anyres_grids).tolist(), resized, strict=True
    ):
        canvas = Image.new("RGB", tuple(grid))
        canvas.paste(fitted, fit_into_grid(image.height, image.width, *grid)[:1:-1])
        corners = [(x, y) for y in range(0, grid[1], side) for x in range(0, grid[0], side)]
        for tile in [overview, *(canvas.crop((x, y, x + side, y + side)) for x, y in corners)]:
            raw = torch.frombuffer(bytearray(tile.tobytes()), dtype=torch.uint8).view(side, side, 3)
            cut.append((raw.permute(2, 0, 1).contiguous().to(torch.float32) / 255 - mean) / std)
    return torch.stack(cut)


def measure_tower(bench: BenchmarkRun) -> Rows:
    """Tiles per second of the vision tower, all tiles of an image in one call against one at a time."""
    tiles = make_prompt(bench.config, 1, bench.device, bench.dtype)["pixel_values"]
    return measure_module(bench, "tower", bench.model.get_vision_features, tiles)


def measure_resampler(bench: BenchmarkRun) -> Rows:
    """Tiles per second of the resampler, likewise."""
    shape = (TILES, bench.config.patches_per_side**2, bench.config.vision_config.hidden_size)
    features = torch.randn(shape, device=bench.device, dtype=bench.dtype)
    return measure_module(bench, "resampler", bench.model.model.resampler, features)


def measure_module(bench: BenchmarkRun, part: str, module: Callable[..., Any], inputs: torch.Tensor) -> Rows:
    """Measures a module on all rows of its input together and one by one."""
    flops = count_flops(lambda: module(inputs))
    apart, together = "one tile at a time", f"{TILES} tiles in one call"
    candidates = {
        apart: Candidate(lambda: [module(one) for one in inputs.split(1)], TILES, flops),
        together: Candidate(lambda: module(inputs), TILES, flops, baseline=apart),
    }
    return bench.compare(part, "tiles", candidates)


def measure_prefill(bench: BenchmarkRun) -> Rows:
    """Prompt tokens per second, with the logits of the last position and of all."""
    inputs = make_prompt(bench.config, 1, bench.device, bench.dtype)
    length, candidates = inputs["input_ids"].shape[1], {}
    for name, kept in (("logits of all positions", 0), ("logits of the last position", 1)):

        def run(kept: int = kept) -> Any:
            return bench.model(**inputs, logits_to_keep=kept)

        baseline = "logits of all positions" if kept else None
        candidates[name] = Candidate(run, length, count_flops(run), baseline=baseline)
    return bench.compare("prefill", "tokens", candidates)


def measure_decode(bench: BenchmarkRun) -> Rows:
    """New tokens per second behind a prompt of one image, in batches."""
    text, candidates = bench.config.text_config, {}
    past = make_prompt(bench.config, 1, bench.device, bench.dtype)["input_ids"].shape[1]
    weights = sum(weight.nbytes for weight in bench.model.model.language_model.layers.parameters())
    weights += bench.model.lm_head.weight.nbytes
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    for batch in (1, 8, 32):
        shape = (batch, text.num_key_value_heads, past, width)
        cache = DynamicCache()
        for layer in range(text.num_hidden_layers):
            cache.update(*torch.randn((2, *shape), device=bench.device, dtype=bench.dtype).unbind(), layer)
        kept = sum(2 * batch * past * text.num_key_value_heads * width for _ in range(text.num_hidden_layers))
        moved = STEPS * (weights + kept * bench.dtype.itemsize)
        baseline = None if batch == 1 else "batch 1"
        step = make_decoder(bench, cache, batch, past)
        candidates[f"batch {batch}"] = Candidate(step, batch * STEPS, moved=moved, baseline=baseline)
    return bench.compare("decode", "tokens", candidates)


def make_decoder(bench: BenchmarkRun, cache: Any, batch: int, past: int) -> Callable[[], None]:
    """Returns a run of greedy decode steps that leaves the cache as long as it found it."""

    def run() -> None:
        ids = torch.full((batch, 1), 7, device=bench.device)
        for step in range(STEPS):
            position = torch.full((batch, 1), past + step, device=bench.device)
            output = bench.model(input_ids=ids, past_key_values=cache, use_cache=True, position_ids=position)
            ids = output.logits[:, -1:].argmax(-1)
        cache.crop(-STEPS)

    return run


def measure_cache(bench: BenchmarkRun) -> Rows:
    """Questions per second about one image, with and without the feature cache; it starts empty in every run."""
    image, processor, model = make_images(bench.config, 1)[0], bench.processor, bench.model
    texts = [f"<image>\n{question}" for question in QUESTIONS]

    def ask(inputs: Any) -> Any:
        return model.generate(**inputs, max_new_tokens=1, do_sample=False)

    def uncached() -> None:
        for text in texts:
            ask(processor(images=image, text=text, return_tensors="pt").to(bench.device, bench.dtype))

    def cached() -> None:
        cache = FeatureCache(model, processor)
        for text in texts:
            ask(cache.prepare(text, [image]))

    plain = "image encoded for each question"
    candidates = {plain: Candidate(uncached, 4), "feature cache": Candidate(cached, 4, baseline=plain)}
    return bench.compare("cache", "answers", candidates)


def measure_load(bench: BenchmarkRun) -> Rows:
    """Bytes per second of `from_pretrained` in a fresh process, against reading the file through one buffer."""
    program = (
        "import sys, time, torch\nfrom xgenmm_hf import XGenMMForConditionalGeneration as Model\nModel.config_class\n"
        "start = time.perf_counter()\nmodel = Model.from_pretrained(sys.argv[1], dtype='auto')\n"
        "for weight in model.parameters(): weight.flatten()[::1024].sum()\nprint(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as folder:
        bench.model.save_pretrained(folder, max_shard_size="100GB")
        file = Path(folder) / "model.safetensors"
        size = file.stat().st_size

        def read() -> None:
            with file.open("rb", buffering=0) as opened:
                while opened.read(2**24):
                    pass

        rows = bench.compare("load", "bytes", {"reading the file": Candidate(read, size)})
        taken = [
            float(subprocess.run([sys.executable, "-c", program, folder], capture_output=True, check=True).stdout)
            for _ in range(bench.rounds)
        ]
    seconds = sorted(taken)[len(taken) // 2]
    row = {**rows[0], "case": "from_pretrained", "seconds": seconds, "low": min(taken), "high": max(taken)}
    rate = size / seconds
    return [*rows, {**row, "rate": rate, "peak": None, "baseline": rows[0]["case"], "ratio": rate / rows[0]["rate"]}]


def measure_training(bench: BenchmarkRun) -> Rows:
    """Tokens per second of a fine-tuning step (tower frozen, AdamW), activations kept and recomputed."""
    model = build_model(bench.config, bench.device, bench.dtype).train()
    model.model.vision_tower.requires_grad_(False)
    inputs = make_prompt(bench.config, 1, bench.device, bench.dtype)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == bench.config.image_token_id, -100)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-6)

    def step(recompute: bool) -> None:
        model.gradient_checkpointing_enable() if recompute else model.gradient_checkpointing_disable()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.enable_grad():
        flops, tokens = count_flops(lambda: step(False)), labels.numel()
        candidates = {
            "activations kept": Candidate(lambda: step(False), tokens, flops),
            "activations recomputed": Candidate(lambda: step(True), tokens, flops, baseline="activations kept"),
        }
        return bench.compare("SFT step", "tokens", candidates)


PARTS: dict[str, Callable[[BenchmarkRun], Rows]] = {
    "images": measure_images,
    "tower": measure_tower,
    "resampler": measure_resampler,
    "prefill": measure_prefill,
    "decode": measure_decode,
    "cache": measure_cache,
    "load": measure_load,
    "sft": measure_training,
}
