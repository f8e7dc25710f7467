"""Configs of the original layout: read into ours, and written back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xgenmm_hf.conversion.files import one_line, read_json
from xgenmm_hf.conversion.tensors import Shape
from xgenmm_hf.modeling.compat_xgenmm import write_rope_of_both_lines
from xgenmm_hf.modeling.configuration_xgenmm import NUM_ADDED_TOKENS, XGenMMConfig, XGenMMResamplerConfig
from xgenmm_hf.modeling.tiling_xgenmm import default_grids


CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"
VISION_CONFIG_NAME = "vision_config.json"
GENERATION_NAME = "generation_config.json"
_SECTIONS = ("vision_encoder_config", "vision_tokenizer_config", "text_config")
_MODEL_TYPES = ("xgenmm", "blip_3")
_TEXT_PROJECTION = "vision_tokenizer.text_projection.0.weight"
_ONE_TILE = ("none", "pad")
_RESAMPLER_SIZES = ("depth", "num_heads", "head_dim", "ff_mult")
# Fields about the code and library that wrote the folder; ours do not need them.
_PROVENANCE = ("architectures", "auto_map", "transformers_version", "_name_or_path", "torch_dtype", "dtype")

_SKELETON = {
    "architectures": ["XGenMMModelForConditionalGeneration"],
    "auto_map": {
        "AutoConfig": "modeling_xgenmm.XGenMMConfig",
        "AutoModelForVision2Seq": "modeling_xgenmm.XGenMMModelForConditionalGeneration",
    },
    "model_type": "xgenmm",
}
_FIRST_SKELETON = {
    "architectures": ["Blip3ModelForConditionalGeneration"],
    "auto_map": {
        "AutoConfig": "configuration_blip_3.Blip3Config",
        "AutoModelForVision2Seq": "modeling_blip_3.Blip3ModelForConditionalGeneration",
    },
    "model_type": "blip_3",
}
# Fields of a decoder's config that the original's library (4.41) knows; later ones are left out.
_TEXT_FIELDS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "resid_pdrop", "embd_pdrop", "attention_dropout", "attention_bias",
    "hidden_act", "max_position_embeddings", "original_max_position_embeddings", "initializer_range",
    "rms_norm_eps", "use_cache", "rope_theta", "rope_scaling", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


class ImageMode(NamedTuple):
    """How images are cut, and the grids as (width, height) in pixels as stated; None: the released ones."""

    aspect_ratio: str
    grids: Any = None


def decide_image_mode(
    original: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, asked: str | None
) -> ImageMode:
    """Decides the image mode of an original checkpoint; the config's class checks it.

    Nothing is guessed: the released base model says any-resolution, but has no grids and its code never tiles. In this
    order: what the user asks for; `grids` in `preprocessor_config.json` (a list: any-resolution, null: one
    tile); `anyres_grids` or a one-tile `image_aspect_ratio` in `vision_encoder_config`; the first release's type.
    """
    encoder = original.get("vision_encoder_config") or {}
    preprocessor = preprocessor or {}
    grids = preprocessor.get("grids") or encoder.get("anyres_grids") or None
    if asked is not None:
        return ImageMode(asked, grids if asked == "anyres" else None)
    if "grids" in preprocessor and not preprocessor["grids"]:
        return ImageMode("pad" if encoder.get("image_aspect_ratio") == "pad" else "none")
    if "grids" not in preprocessor and encoder.get("image_aspect_ratio") in _ONE_TILE:
        return ImageMode(encoder["image_aspect_ratio"])
    if grids or original.get("model_type") == "blip_3":  # the first release's grids are built into its code
        return ImageMode("anyres", grids)
    raise ValueError(
        "Neither preprocessor_config.json nor vision_encoder_config says whether this checkpoint tiles its images; "
        "pass --image-mode anyres (the instruct models) or --image-mode none (the base model)."
    )


def read_original_config(path: Path) -> dict[str, Any]:
    """Reads a `config.json` and checks that it is of the original's schema."""
    config = read_json(path)
    if "resampler_config" in config or "vision_config" in config:
        raise ValueError(f"{path} is in this package's layout already; use `xgenmm export` for the way back.")
    if config.get("model_type", "xgenmm") not in _MODEL_TYPES:
        raise ValueError(
            f"{path} describes a {config['model_type']!r} model; expected an original xGen-MM checkpoint."
        )
    for section in _SECTIONS:
        if not isinstance(config.get(section) or {}, dict):
            raise ValueError(f"{path}: {section} must be a JSON object; fetch the file again.")
    return config


def with_model_type(original: dict[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Returns the original's config with its release; without a config file, the tensors show the first release."""
    first = _TEXT_PROJECTION in shapes and "model_type" not in original
    return {**original, "model_type": "blip_3"} if first else original


def build_config(
    original: Mapping[str, Any], vision_config: Any, mode: ImageMode, dtype: str, shapes: Mapping[str, Shape]
) -> XGenMMConfig:
    """Builds our config from the original's; `shapes` are the checkpoint's by plain name."""
    sampler = original.get("vision_tokenizer_config") or {}
    fields = {name: value for name, value in original.items() if name not in _PROVENANCE}
    fields["vision_encoder_config"] = {
        **(original.get("vision_encoder_config") or {}),
        "image_aspect_ratio": mode.aspect_ratio,
        "anyres_grids": mode.grids,
    }
    fields["vision_tokenizer_config"] = sampler
    fields["resampler_config"] = resampler_sizes(sampler, shapes)
    if fields.get("text_config"):
        text = fields["text_config"]
        fields["text_config"] = {name: value for name, value in text.items() if name not in ("torch_dtype", "dtype")}
    return checked_config({**fields, "vision_config": vision_config, "dtype": dtype}, "The original's config.json")


def checked_config(fields: dict[str, Any], place: str) -> XGenMMConfig:
    """Builds a config from the fields of a `config.json`; `place` is what a message calls it."""
    try:
        return XGenMMConfig.from_dict(fields)
    except ValueError:
        raise
    except Exception as error:  # config classes check their fields with errors of several libraries
        raise ValueError(f"{place} holds a value that no model can have: {one_line(error)}.") from error


def resampler_sizes(sampler: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Returns the resampler's sizes from its tensors; the original's config leaves them out."""
    found: dict[str, int] = {name: sampler[name] for name in _RESAMPLER_SIZES if name in sampler}
    layers = [int(name.split(".")[2]) for name in shapes if name.startswith("vision_tokenizer.layers.")]
    query, wide = (shapes.get(f"vision_tokenizer.layers.0.{part}.weight") for part in ("0.to_q", "1.1"))
    if not layers or query is None or wide is None or len(query) != 2 or len(wide) != 2:
        return found
    head_dim = found.setdefault("head_dim", 96)
    if not isinstance(head_dim, int) or head_dim < 1 or query[0] % head_dim:
        raise ValueError(
            f"The resampler's queries are {query[0]} wide, no multiple of its head_dim {head_dim}; state head_dim in "
            "vision_tokenizer_config of config.json."
        )
    return {**found, "depth": 1 + max(layers), "num_heads": query[0] // head_dim, "ff_mult": wide[0] // wide[1]}


def first_added_id(config: XGenMMConfig) -> int:
    """Returns the original's `initial_tokenizer_len` of one of our configs."""
    first = config.text_config.vocab_size - NUM_ADDED_TOKENS
    ids = (config.image_token_id, config.image_placeholder_token_id, config.end_of_chunk_token_id)
    if ids != (first, first + 1, first + 2):
        raise ValueError(
            f"The added tokens have the ids {ids} in a vocabulary of {config.text_config.vocab_size}; the original "
            f"layout needs {(first, first + 1, first + 2)}, so this model cannot be exported."
        )
    return first


def original_config(config: XGenMMConfig, kept: Mapping[str, Any], rows: int, dtype: str) -> dict[str, Any]:
    """Writes one of our configs in the original's schema."""
    resampler, released = config.resampler_config, XGenMMResamplerConfig()
    base = {**(_FIRST_SKELETON if resampler.text_conditioned else _SKELETON), **kept}
    sizes = {name: getattr(resampler, name) for name in _RESAMPLER_SIZES}
    sampler = {
        "model_type": f"{base['model_type']}_vision_tokenizer",
        **(kept.get("vision_tokenizer_config") or {"image_aspect_ratio": config.image_aspect_ratio}),
        "vis_feature_dim": resampler.hidden_size,
        "lang_embedding_dim": config.text_config.hidden_size,
        "num_vis_tokens": resampler.num_latents,
        **{name: size for name, size in sizes.items() if size != getattr(released, name)},
    }
    text = kept.get("text_config") or {}
    return {
        **base,
        "text_config": {**text, **_text_section(config, rows, text)},
        "torch_dtype": dtype,
        "vision_encoder_config": _encoder_section(config, kept.get("vision_encoder_config") or {}),
        "vision_tokenizer_config": sampler,
    }


def _encoder_section(config: XGenMMConfig, kept: Mapping[str, Any]) -> dict[str, Any]:
    first = config.resampler_config.text_conditioned
    section = {
        "model_type": "blip_3_vision_encoder" if first else "xgenmm_vision_encoder",
        **kept,
        "image_aspect_ratio": config.image_aspect_ratio,
        "anyres_patch_sampling": config.anyres_patch_sampling,
    }
    section.pop("anyres_grids", None)
    if first and config.anyres_grids != default_grids(config.tile_size):
        raise ValueError(
            "The first release's code has its grids built in; this model has others and cannot be exported."
        )
    if config.image_aspect_ratio == "anyres" and not first:
        section["anyres_grids"] = [list(grid) for grid in config.anyres_grids]
    elif (
        config.image_aspect_ratio == "none"
        and kept.get("image_aspect_ratio") == "anyres"
        and not kept.get("anyres_grids")
    ):
        # The base release says so and never tiles; its preprocessor_config.json, which is exported too, decides.
        section["image_aspect_ratio"] = "anyres"
    return section


def _text_section(config: XGenMMConfig, rows: int, kept: Mapping[str, Any]) -> dict[str, Any]:
    written = write_rope_of_both_lines(config.to_dict()["text_config"])
    section = {name: written[name] for name in _TEXT_FIELDS if name in written}
    if scaling := section.get("rope_scaling"):  # the old form knows the type and the lists of factors only
        kind = (kept.get("rope_scaling") or {}).get("type") or scaling.get("rope_type") or scaling.get("type")
        factors = {name: scaling[name] for name in ("short_factor", "long_factor", "factor") if name in scaling}
        section["rope_scaling"] = {"type": kind, **factors}
    window = written.get("sliding_window")
    return {
        **section,
        "sliding_window": None if window is None else window - 1,
        "vocab_size": rows,
        "initial_tokenizer_len": config.image_token_id,
    }


def original_preprocessor(config: XGenMMConfig, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `preprocessor_config.json` in the original's schema, `ours` being that of our layout."""
    anyres = config.image_aspect_ratio == "anyres"
    grids = {"grids": [list(grid) for grid in config.anyres_grids] if anyres else None}
    return {
        "auto_map": {"AutoImageProcessor": "image_processing_blip_3.Blip3ImageProcessor"},
        "do_resize": True,
        **({} if config.resampler_config.text_conditioned else grids),
        "image_mean": list(ours.get("image_mean") or [0.5, 0.5, 0.5]),
        "image_processor_type": "Blip3ImageProcessor",
        "image_std": list(ours.get("image_std") or [0.5, 0.5, 0.5]),
        "interpolation_mode": "bicubic",
        "resize_mode": "squash",
        "size": [config.tile_size, config.tile_size],
    }
