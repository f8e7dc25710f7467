"""Configs of OpenCLIP vision towers, read from their tensors and their `open_clip_config.json`.

Two kinds of towers occur: OpenCLIP's own vision transformer (Transformers' `clip_vision_model`) and timm's SigLIP
trunk (`siglip_vision_model`). Neither open_clip nor timm is imported. The tables of names are in `key_map`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from xgenmm_hf.conversion.tensors import Shape


# Width -> head width of OpenCLIP's published vision transformers; no tensor's shape shows it.
_HEAD_WIDTHS = {768: 64, 1024: 64, 1280: 80, 1408: 88, 1664: 104}
# Heads of timm's SigLIP trunks, by the size in their name.
_TIMM_HEADS = {"base": 12, "large": 16, "so400m": 16, "giantopt": 16}
# The r-v1 release leaves its tower's name to a class default.
_RELEASED_TOWER = "ViT-H-14-378-quickgelu"
_RELEASED_SHAPE = (1280, 378)
_HELP = "describe the tower with --vision-config JSON"


def vision_config_from_openclip(
    kind: str, shapes: Mapping[str, Shape], model_config: Mapping[str, Any] | None, model_name: str | None = None
) -> dict[str, Any]:
    """Describes an OpenCLIP tower as a Transformers vision config."""
    build = _clip_config if kind == "openclip" else _siglip_config
    try:
        return build(shapes, dict(model_config or {}), model_name)
    except KeyError as error:
        raise ValueError(f"The OpenCLIP tower lacks the tensor {error}; check that the file is complete.") from error


def _clip_config(shapes: Mapping[str, Shape], model: dict[str, Any], model_name: str | None) -> dict[str, Any]:
    vision = dict(model.get("vision_cfg") or {})
    odd = [key for key in ("attentional_pool", "final_ln_after_pool", "ls_init_value", "no_ln_pre") if vision.get(key)]
    if odd:
        raise ValueError(f"The OpenCLIP tower uses {', '.join(odd)}, which Transformers' CLIP tower does not have.")
    width, _, _, patch = shapes["conv1.weight"]
    image_size = _side(shapes["positional_embedding"][0] - 1) * patch
    if not model and model_name is None and (width, image_size) == _RELEASED_SHAPE:
        model_name = _RELEASED_TOWER
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(shapes, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": width // _head_width(width, vision, bool(model)),
        "image_size": image_size,
        "patch_size": patch,
        "projection_dim": shapes["proj"][1] if "proj" in shapes else width,
        "hidden_act": _activation(model, vision, model_name),
        "layer_norm_eps": (vision.get("norm_kwargs") or {}).get("eps", 1e-5),
    }


def _head_width(width: int, vision: dict[str, Any], stated: bool) -> int:
    head_width = vision.get("head_width", 64 if stated else _HEAD_WIDTHS.get(width))
    if not head_width or width % head_width:
        raise ValueError(f"The head width of an OpenCLIP tower {width} wide is not known; {_HELP}.")
    return head_width


def _activation(model: dict[str, Any], vision: dict[str, Any], model_name: str | None) -> str:
    if not model and model_name is None:
        raise ValueError(f"Whether the OpenCLIP tower uses quick_gelu is not stated; {_HELP}.")
    if model.get("quick_gelu") or "quickgelu" in (model_name or "").lower():
        return "quick_gelu"
    return "gelu_pytorch_tanh" if (vision.get("act_kwargs") or {}).get("approximate") == "tanh" else "gelu"


def _siglip_config(shapes: Mapping[str, Shape], model: dict[str, Any], model_name: str | None) -> dict[str, Any]:
    vision = dict(model.get("vision_cfg") or {})
    timm_name = str(vision.get("timm_model_name") or model_name or "")
    heads = next((count for size, count in _TIMM_HEADS.items() if size in timm_name.lower()), None)
    if heads is None:
        raise ValueError(
            f"The number of heads of the timm tower {timm_name or 'without a name'} is not known; {_HELP}."
        )
    width, patch = shapes["trunk.pos_embed"][-1], shapes["trunk.patch_embed.proj.weight"][-1]
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": shapes["trunk.blocks.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, r"trunk\.blocks\.(\d+)\."),
        "num_attention_heads": heads,
        "image_size": vision.get("image_size") or _side(shapes["trunk.pos_embed"][-2]) * patch,
        "patch_size": patch,
        # timm's trunk computes the exact GELU, Transformers' SigLIP the tanh form.
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }


def _side(num_patches: int) -> int:
    side = math.isqrt(max(num_patches, 0))
    if side * side != num_patches or side == 0:
        raise ValueError(f"The OpenCLIP tower has {num_patches} patches per image, no square number; {_HELP}.")
    return side


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    return 1 + max(int(match[1]) for match in map(re.compile(pattern).match, shapes) if match)
