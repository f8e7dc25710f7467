"""Makes the graphs of a checkpoint and writes them with what a runtime must know.

The folder holds `vision.pt2`, `text.pt2` (weights included) and `graphs.json`.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.export import Dim, ExportedProgram

from export_graphs.modules import TextGraph, VisionGraph
from xgenmm_hf import XGenMMConfig, XGenMMForConditionalGeneration, load, select_grids


FIXED_ROPE = ("default", "linear", "llama3", "yarn")


def export_graphs(
    model: str | os.PathLike[str], out: str | os.PathLike[str], *, context: int | None = None, dtype: str = "auto"
) -> dict[str, Any]:
    """Writes a checkpoint's two graphs."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{out} is there already: name a new folder.")
    loaded = load(model, dtype=dtype, device="cpu").model
    facts = describe_graphs(loaded, context)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for name, make in (("vision", trace_vision), ("text", trace_text)):
            torch.export.save(make(loaded, facts), folder / f"{name}.pt2")
    # written last: a folder without it is not complete
    (folder / "graphs.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def describe_graphs(model: XGenMMForConditionalGeneration, context: int | None = None) -> dict[str, Any]:
    """Returns what a runtime must know of the graphs."""
    config = model.config
    check_text(config)
    text = config.text_config
    context = text.max_position_embeddings if context is None else context
    if not 2 <= context <= text.max_position_embeddings:
        raise ValueError(
            f"context is {context}; this model can have 2 to {text.max_position_embeddings} tokens. Name one of them."
        )
    fields, own, padding = text.to_dict(), model.generation_config.eos_token_id, model.generation_config.pad_token_id
    ends = [*(own if isinstance(own, list) else [own]), config.end_of_chunk_token_id]
    head_dim = fields.get("head_dim") or text.hidden_size // text.num_attention_heads
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tile_size": config.tile_size,
        "image_token_id": config.image_token_id,
        "text_width": text.hidden_size,
        "cache": {
            "layers": text.num_hidden_layers,
            "heads": fields.get("num_key_value_heads") or text.num_attention_heads,
            "context": context,
            "head_dim": head_dim,
        },
        "end_token_ids": ends,
        "pad_token_id": ends[0] if padding is None else padding,
    }


def check_text(config: XGenMMConfig) -> None:
    """Checks that a language model's attention and positions do not depend on what it reads."""
    fields = config.to_dict()["text_config"]
    kinds = sorted(set(fields.get("layer_types") or []))
    if len(kinds) > 1:
        raise ValueError(
            f"The language model ({config.text_config.model_type}) mixes attention layers ({', '.join(kinds)}); "
            "graphs are made of models whose layers are all alike. Run this one through Transformers."
        )
    rope = (fields.get("rope_parameters") or {}).get("rope_type", "default")
    if rope not in FIXED_ROPE:
        raise ValueError(
            f"The language model's rotary embedding is {rope!r}, which changes with the prompt's length; graphs are "
            f"made of {', '.join(FIXED_ROPE)}. Run this one through Transformers."
        )


def trace_vision(model: XGenMMForConditionalGeneration, facts: dict[str, Any]) -> ExportedProgram:
    """Makes the graph of tower and resampler, for any number of images and tiles."""
    config, side = model.config, facts["tile_size"]
    sizes = torch.tensor([[2 * side, side], [side, side + 1], [side, 3 * side]])
    tiles = torch.ones(len(sizes), dtype=torch.long)
    if config.image_aspect_ratio == "anyres":
        tiles = 1 + (select_grids(sizes, config.anyres_grids) // side).prod(dim=1)
    inputs = {
        "pixel_values": torch.zeros(int(tiles.sum()), 3, side, side, dtype=model.dtype),
        "image_sizes": sizes,
        "image_num_tiles": tiles,
    }
    num_tiles, num_images = Dim("num_tiles", min=1), Dim("num_images", min=1)
    if config.image_aspect_ratio != "anyres":
        num_images = num_tiles
    shapes = {"pixel_values": {0: num_tiles}, "image_sizes": {0: num_images}, "image_num_tiles": {0: num_images}}
    return torch.export.export(VisionGraph(model), (), inputs, dynamic_shapes=shapes)


def trace_text(model: XGenMMForConditionalGeneration, facts: dict[str, Any]) -> ExportedProgram:
    """Makes the graph of the language model, which reads prompts and single tokens alike."""
    rows, length, cache = 2, 3, facts["cache"]
    shape = (rows, cache["heads"], cache["context"], cache["head_dim"])
    inputs = {
        "input_ids": torch.zeros(rows, length, dtype=torch.long),
        "image_tokens": torch.zeros(4, facts["text_width"], dtype=model.dtype),
        "start": torch.zeros(1, dtype=torch.long),
        "padding": torch.zeros(rows, dtype=torch.long),
        "keys": [torch.zeros(shape, dtype=model.dtype) for _ in range(cache["layers"])],
        "values": [torch.zeros(shape, dtype=model.dtype) for _ in range(cache["layers"])],
    }
    batch = Dim("batch", min=1)
    shapes: dict[str, Any] = {
        "input_ids": {0: batch, 1: Dim("length", min=1, max=cache["context"])},
        "image_tokens": {0: Dim("num_image_tokens", min=1)},
        "start": {},
        "padding": {0: batch},
        "keys": [{0: batch}] * cache["layers"],
        "values": [{0: batch}] * cache["layers"],
    }
    model.set_attn_implementation("sdpa")
    module: nn.Module = TextGraph(model)
    return torch.export.export(module, (), inputs, dynamic_shapes=shapes)
