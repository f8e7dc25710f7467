"""Measures the memory that a conversion adds to a process, on a checkpoint of real shapes with a few layers.

    python tests/conversion/measure_memory.py FOLDER [--layers 2] [--dtype float32] [--shard-size 500MB] [--layout a|b]

Prints one JSON object: resident memory before and at the peak, and the largest weight file read or written, in MB.
Reads Linux's /proc.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file


CONVERT = """
import json, re, sys
from pathlib import Path
from xgenmm_hf.conversion.convert import convert_checkpoint
from xgenmm_hf.modeling import image_processing_xgenmm, modeling_xgenmm, processing_xgenmm

def resident(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1e3

source, out, size = sys.argv[1:]
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
before = resident("VmRSS")
convert_checkpoint(source, out, max_shard_size=size)
print(json.dumps({"before_mb": before, "peak_mb": resident("VmHWM")}))
"""


def write_checkpoint(folder: Path, layers: int, dtype: torch.dtype, shard_size: str, layout: str) -> None:
    """Writes an original checkpoint: Phi-3-mini and SigLIP so400m shapes, `layers` layers each."""
    from xgenmm_hf.conversion.key_map import FOLDED
    from xgenmm_hf.conversion.tensors import plan_export
    from xgenmm_hf.conversion.verify import expected_tensors
    from xgenmm_hf.conversion.writer import split_into_shards
    from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig

    config = XGenMMConfig(text_config={"num_hidden_layers": layers}, vision_config={"num_hidden_layers": layers})
    shapes = expected_tensors(config)
    padding = {old: (52, *shapes[ours][1:]) for ours, (old, _) in FOLDED.items()}
    plan = plan_export(shapes, padding, 32012, "transformers")
    targets = {target.name: target.shape for target in plan.targets}

    def make(names: Iterable[str], prefix: str = "") -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): torch.full(targets[name], 0.01, dtype=dtype) for name in names}

    folder.mkdir(parents=True)
    if layout == "a":
        shards = split_into_shards(
            {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in targets.items()}, shard_size
        )
        for file, names in shards.items():
            save_file(make(names), folder / file, metadata={"format": "pt"})
        weight_map = {name: file for file, names in shards.items() for name in names}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    else:
        torch.save(make(targets, "vlm."), folder / "base_model_weight.pt")
    original = {
        "model_type": "xgenmm",
        "text_config": {"model_type": "phi3", "initial_tokenizer_len": 32012, "num_hidden_layers": layers},
        "vision_encoder_config": {"image_aspect_ratio": "none"},
    }
    (folder / "config.json").write_text(json.dumps(original))
    (folder / "vision_config.json").write_text(
        json.dumps({"model_type": "siglip_vision_model", "num_hidden_layers": layers})
    )


def in_new_interpreter(command: list[str]) -> str:
    """Returns what Python prints for a command."""
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout


def measure(
    folder: Path,
    layers: int,
    dtype: str,
    shard_size: str,
    layout: str,
    run: Callable[[list[str]], str] = in_new_interpreter,
) -> dict[str, float]:
    """Writes a checkpoint, converts it in a process of its own and returns the figures in MB."""
    source, out = folder / "source", folder / "out"
    write_checkpoint(source, layers, getattr(torch, dtype), shard_size, layout)
    printed = run(["-c", CONVERT, str(source), str(out), shard_size])
    figures = json.loads(re.findall(r"\{.*\}", printed)[-1])
    files = [path for part in (source, out) for path in part.iterdir() if re.search(r"(safetensors|pt)$", path.name)]
    figures["increase_mb"] = figures["peak_mb"] - figures["before_mb"]
    figures["largest_file_mb"] = max(path.stat().st_size for path in files) / 1e6
    figures["total_mb"] = sum(path.stat().st_size for path in files if path.parent == source) / 1e6
    return {name: round(value, 1) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shard-size", default="500MB")
    parser.add_argument("--layout", choices=("a", "b"), default="a")
    options = parser.parse_args()
    figures = measure(options.folder, options.layers, options.dtype, options.shard_size, options.layout)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
