"""The vision tower of a conversion: where its tensors and its config come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from xgenmm_hf.conversion import key_map
from xgenmm_hf.conversion.files import read_json_if_there
from xgenmm_hf.conversion.openclip import vision_config_from_openclip
from xgenmm_hf.conversion.sources import Weights, locate, weight_files
from xgenmm_hf.conversion.tensors import Shape, canonical_names


OPENCLIP_CONFIG = "open_clip_config.json"
_COMPOSITES = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
_TEXT_PARTS = ("text_model.", "text.", "text_projection", "visual_projection", "logit_scale", "logit_bias")


@dataclass(frozen=True)
class VisionEncoder:
    """The files and other tensors in the folder of a separate vision tower."""

    config: dict[str, Any]  # `config.json`, or empty
    openclip: dict[str, Any]  # `open_clip_config.json`, or empty
    skipped: tuple[str, ...]  # names of the tensors that are not the tower's (a text tower, projections)


def add_vision_encoder(weights: Weights, source: str | Path) -> VisionEncoder:
    """Finds a vision tower on disk or on the Hub and adds its tensors to `weights`, under the original's names."""
    if any(name.startswith(key_map.ORIGINAL_TOWER) for name in canonical_names(weights.meta)):
        raise ValueError("The checkpoint holds a vision tower already; leave --vision-encoder out.")
    path = locate(source)
    files, skipped = weight_files(path), []
    names = [key_map.strip_wrappers(name) for file in files for name in file.entries()]
    prefix = next((p for p in ("visual.", "vision_model.") if any(n.startswith(p) for n in names)), "")

    def rename(raw: str) -> str | None:
        name = key_map.strip_wrappers(raw)
        if not name.startswith(prefix) or name.startswith(_TEXT_PARTS):
            skipped.append(raw)
            return None
        return key_map.ORIGINAL_TOWER + name.removeprefix(prefix)

    for file in files:
        weights.add(file, rename)
    if key_map.tower_format(canonical_names(weights.meta)) is None:
        raise ValueError(
            f"{path} holds no vision tower that is known; expected SigLIP or CLIP in Transformers' or OpenCLIP's "
            "format."
        )
    folder = path if path.is_dir() else path.parent
    config, openclip = (read_json_if_there(folder / name) for name in ("config.json", OPENCLIP_CONFIG))
    return VisionEncoder(config, openclip, tuple(sorted(skipped)))


def choose_vision_config(
    shapes: Mapping[str, Shape],
    original: Mapping[str, Any],
    stated: Mapping[str, Any] | None,
    encoder: VisionEncoder | None,
) -> PretrainedConfig | dict[str, Any] | None:
    """Decides what the tower looks like; `shapes` are the checkpoint's by plain name.

    What the user or the checkpoint's `vision_config.json` states comes first, then the tower's own folder, then an
    OpenCLIP tower's shapes. Without any of them, it is the release's SigLIP so400m-patch14-384.
    """
    if stated is not None:
        return _vision_part(stated)
    kind = key_map.tower_format(shapes)
    if kind in ("openclip", "timm"):
        tower = {name.removeprefix(key_map.ORIGINAL_TOWER): shape for name, shape in shapes.items()}
        model_config = encoder.openclip.get("model_cfg") if encoder else None
        name = (original.get("vision_encoder_config") or {}).get("model_name")
        return _full_config(vision_config_from_openclip(kind, tower, model_config, name))
    if encoder is not None and encoder.config:
        return _full_config(_vision_part(encoder.config))
    return None


def _vision_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the vision config inside a config of a whole SigLIP or CLIP model, or of its tower alone."""
    model_type = config.get("model_type", "siglip_vision_model")
    if model_type in _COMPOSITES:
        return {**(config.get("vision_config") or {}), "model_type": _COMPOSITES[model_type]}
    if model_type not in _COMPOSITES.values():
        raise ValueError(f"The vision config is of type {model_type!r}; expected {' or '.join(_COMPOSITES.values())}.")
    return {**config, "model_type": model_type}


def _full_config(fields: dict[str, Any]) -> PretrainedConfig:
    """Builds a config whose unstated fields are the defaults of its class."""
    left_out = ("model_type", "torch_dtype", "dtype", "architectures", "transformers_version", "_name_or_path")
    stated = {name: value for name, value in fields.items() if name not in left_out}
    if fields["model_type"] == "siglip_vision_model":
        stated["vision_use_head"] = False
    return CONFIG_MAPPING[fields["model_type"]](**stated)
