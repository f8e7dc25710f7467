"""The vision tower of a conversion: where its tensors and its config come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from xgenmm_hf.conversion import key_map
from xgenmm_hf.conversion.files import read_json
from xgenmm_hf.conversion.openclip import vision_config_from_openclip
from xgenmm_hf.conversion.sources import Weights, locate, weight_files
from xgenmm_hf.conversion.tensors import Shape


OPENCLIP_CONFIG = "open_clip_config.json"
_COMPOSITES = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}
_TEXT_PARTS = ("text_model.", "text.", "text_projection", "visual_projection", "logit_scale", "logit_bias")


@dataclass
class VisionEncoder:
    """A vision tower read from a folder of its own.

    Attributes:
        folder: Where it was found.
        skipped: Names of the folder's other tensors (a text tower, projections).
    """

    folder: Path
    skipped: list[str] = field(default_factory=list)

    def add_to(self, weights: Weights) -> None:
        """Adds the tower's tensors under the original's names."""
        if any(key_map.strip_wrappers(name).startswith(key_map.ORIGINAL_TOWER) for name in weights.shapes):
            raise ValueError("The checkpoint holds a vision tower already; leave --vision-encoder out.")
        files = weight_files(self.folder)
        names = [key_map.strip_wrappers(name) for file in files for name in file.entries()]
        prefix = next((p for p in ("visual.", "vision_model.") if any(n.startswith(p) for n in names)), "")

        def rename(raw: str) -> str | None:
            name = key_map.strip_wrappers(raw)
            if not name.startswith(prefix) or name.startswith(_TEXT_PARTS):
                self.skipped.append(raw)
                return None
            return key_map.ORIGINAL_TOWER + name.removeprefix(prefix)

        for file in files:
            weights.add(file, rename)
        if tower_kind(weights.shapes) is None:
            raise ValueError(
                f"{self.folder} holds no vision tower that is known; expected SigLIP or CLIP in Transformers' or "
                "OpenCLIP's format."
            )

    @property
    def openclip_config(self) -> dict[str, Any]:
        """The folder's `open_clip_config.json`, or an empty dict."""
        path = self.folder / OPENCLIP_CONFIG if self.folder.is_dir() else self.folder.parent / OPENCLIP_CONFIG
        return read_json(path) if path.is_file() else {}

    @property
    def transformers_config(self) -> dict[str, Any]:
        """The folder's `config.json`, or an empty dict."""
        path = self.folder / "config.json" if self.folder.is_dir() else self.folder.parent / "config.json"
        return read_json(path) if path.is_file() else {}


def read_vision_encoder(path: str | Path) -> VisionEncoder:
    """Finds a vision tower on disk or on the Hub."""
    return VisionEncoder(locate(path))


def tower_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Returns the shapes of the tower's tensors by their name within the tower."""
    found = {}
    for raw, shape in shapes.items():
        name = key_map.strip_wrappers(raw)
        if name.startswith(key_map.ORIGINAL_TOWER):
            inner = name.removeprefix(key_map.ORIGINAL_TOWER).removeprefix("vision_model.").removeprefix("visual.")
            found[inner] = shape
    return found


def tower_kind(shapes: Mapping[str, Shape]) -> str | None:
    """Returns the format of a checkpoint's tower (a key of `key_map.TOWER_MARKS`), or None where it has none."""
    return key_map.tower_format(tower_shapes(shapes))


def choose_vision_config(
    shapes: Mapping[str, Shape],
    original: Mapping[str, Any],
    stated: Mapping[str, Any] | None,
    encoder: VisionEncoder | None,
) -> PretrainedConfig | dict[str, Any] | None:
    """Decides what the tower looks like.

    What the user or the checkpoint's `vision_config.json` states comes first, then the tower's own folder, then an
    OpenCLIP tower's shapes. None of them: the release's SigLIP so400m-patch14-384.
    """
    if stated is not None:
        return _vision_part(stated)
    kind = tower_kind(shapes)
    if kind in ("openclip", "timm"):
        openclip = encoder.openclip_config if encoder else {}
        name = (original.get("vision_encoder_config") or {}).get("model_name")
        return _full_config(vision_config_from_openclip(kind, tower_shapes(shapes), openclip.get("model_cfg"), name))
    if encoder is not None and encoder.transformers_config:
        return _full_config(_vision_part(encoder.transformers_config))
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
    """Builds a config whose unstated fields are its class's defaults, as the folder that states it means them."""
    fields = dict(fields)
    config_class = CONFIG_MAPPING[fields.pop("model_type")]
    for key in ("torch_dtype", "dtype", "architectures", "transformers_version", "_name_or_path"):
        fields.pop(key, None)
    if config_class.model_type == "siglip_vision_model":
        fields["vision_use_head"] = False
    return config_class(**fields)
