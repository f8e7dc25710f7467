"""Configuration of xGen-MM: a vision tower, a perceiver resampler and a language model.

Two schemas are read: ours (``vision_config``, ``resampler_config``, ``text_config``) and the original checkpoints'
(``vision_encoder_config``, ``vision_tokenizer_config``, ``text_config``). Only ours is written.
"""

import copy
import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, SiglipVisionConfig

from .chat_xgenmm import MULTIMODAL_TOKENS
from .compat_xgenmm import read_rope_of_either_line, rope_as_read, write_rope_of_both_lines
from .remote_code_xgenmm import AUTO_MAP
from .tiling_xgenmm import checked_grids, checked_mode, default_grids


ORIGINAL_TOKENIZER_LENGTH = 32012
ORIGINAL_SLIDING_WINDOW = 2047
ORIGINAL_SECTIONS = ("vision_encoder_config", "vision_tokenizer_config")
ORIGINAL_VISION_FILE = "vision_config.json"
NUM_ADDED_TOKENS = 3
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

SIGLIP_SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
# The first release (r-v1) is known by its model type; its tower is OpenCLIP's ViT-H-14-378-quickgelu of DFN5B.
FIRST_RELEASE = "blip_3"
DFN5B_VIT_H_378 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 378,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "quick_gelu",
}
PHI3_MINI = {"vocab_size": ORIGINAL_TOKENIZER_LENGTH + NUM_ADDED_TOKENS, "sliding_window": ORIGINAL_SLIDING_WINDOW + 1}


class XGenMMResamplerConfig(PretrainedConfig):
    """Configuration of the perceiver resampler that turns a tile's features into a fixed number of tokens.

    Source: BLIP-3 report, section 2 (token sampling); OpenFlamingo's PerceiverResampler.

    Args:
        num_latents: Number of tokens per tile.
        depth: Number of blocks.
        num_heads: Number of attention heads per block.
        head_dim: Width of a head.
        hidden_size: Width of the latents, equal to the vision tower's.
        ff_mult: Width of the feed-forward part, in units of `hidden_size`.
        layer_norm_eps: Epsilon of every layer norm.
        text_conditioned: Whether text tokens of the prompt join the latents as queries, through `text_projection`
            (the first release, r-v1).
        num_text_queries: Maximum number of text tokens that join.
        letterbox_mask: Whether patches of the black bars are hidden (all releases but the first).

    Example:
        ```python
        >>> from xgenmm_hf import XGenMMResamplerConfig
        >>> XGenMMResamplerConfig(num_latents=64).num_latents
        64
        ```
    """

    model_type = "xgenmm_resampler"
    base_config_key = "resampler_config"

    def __init__(
        self,
        num_latents: int = 128,
        depth: int = 6,
        num_heads: int = 16,
        head_dim: int = 96,
        hidden_size: int = 1152,
        ff_mult: int = 4,
        layer_norm_eps: float = 1e-5,
        text_conditioned: bool = False,
        num_text_queries: int = 256,
        letterbox_mask: bool = True,
        **kwargs: Any,
    ):
        self.num_latents = num_latents
        self.depth = depth
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.hidden_size = hidden_size
        self.ff_mult = ff_mult
        self.layer_norm_eps = layer_norm_eps
        self.text_conditioned = text_conditioned
        self.num_text_queries = num_text_queries
        self.letterbox_mask = letterbox_mask
        super().__init__(**kwargs)


class XGenMMConfig(PretrainedConfig):
    """Configuration of an xGen-MM model. Without arguments: the 4B model (SigLIP so400m, Phi-3-mini).

    Args:
        vision_config: Config or dict of the vision tower; `siglip_vision_model` (default) or `clip_vision_model`.
            A dict overrides the defaults of SigLIP so400m-patch14-384.
        resampler_config: Config or dict of the resampler. Its width defaults to the vision tower's.
        text_config: Config or dict of any decoder that `AutoModel.from_config` builds. A dict overrides the
            defaults of Phi-3-mini with the three added tokens.
        image_token_id: Id of `<image>`.
        image_placeholder_token_id: Id of `<image placeholder>`.
        end_of_chunk_token_id: Id of `<|endofchunk|>`.
        image_aspect_ratio: `"anyres"` (overview tile and grid tiles), `"none"` (squash to one tile) or `"pad"`
            (square canvas, then one tile).
        anyres_grids: Grid resolutions as (width, height) in pixels, in the order that decides ties. Default: the
            released models' (1, 2), (2, 1), (2, 2), (3, 1) and (1, 3) tiles.
        anyres_patch_sampling: Whether each tile is sampled separately. False samples all tiles of an image together
            ("fixed sampling"), which makes no difference in the one-tile modes.
        **kwargs: Further `PretrainedConfig` fields.

    Attributes:
        original_schema: Whether `from_dict` (and so `from_pretrained`) was given the original schema.

    Raises:
        ValueError: If a field is out of range or the parts do not fit each other.

    Example:
        ```python
        >>> from xgenmm_hf import XGenMMConfig
        >>> config = XGenMMConfig(resampler_config={"num_latents": 64}, text_config={"num_hidden_layers": 2})
        >>> config.resampler_config.num_latents, config.text_config.model_type, config.vision_config.image_size
        (64, 'phi3', 384)
        ```
    """

    model_type = "xgenmm"
    sub_configs = {"vision_config": AutoConfig, "resampler_config": XGenMMResamplerConfig, "text_config": AutoConfig}
    _auto_class = "AutoConfig"

    def __init__(
        self,
        vision_config: PretrainedConfig | dict | None = None,
        resampler_config: PretrainedConfig | dict | None = None,
        text_config: PretrainedConfig | dict | None = None,
        image_token_id: int = ORIGINAL_TOKENIZER_LENGTH,
        image_placeholder_token_id: int = ORIGINAL_TOKENIZER_LENGTH + 1,
        end_of_chunk_token_id: int = ORIGINAL_TOKENIZER_LENGTH + 2,
        image_aspect_ratio: str = "anyres",
        anyres_grids: list | None = None,
        anyres_patch_sampling: bool = True,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ):
        if is_original_schema(kwargs):
            raise ValueError("These fields are of the original schema; read them with XGenMMConfig.from_dict(fields).")
        self.original_schema = False
        self.vision_config = without_pooling_head(
            build_sub_config(vision_config, "siglip_vision_model", SIGLIP_SO400M_384)
        )
        self.text_config = build_sub_config(text_config, "phi3", PHI3_MINI)
        self.resampler_config = build_resampler_config(resampler_config, self.vision_config)
        self.image_token_id = image_token_id
        self.image_placeholder_token_id = image_placeholder_token_id
        self.end_of_chunk_token_id = end_of_chunk_token_id
        self.image_aspect_ratio = checked_mode(image_aspect_ratio)
        grids = default_grids(self.tile_size) if anyres_grids is None else anyres_grids
        self.anyres_grids = checked_grids(grids, self.tile_size, image_aspect_ratio)
        self.anyres_patch_sampling = anyres_patch_sampling
        kwargs["auto_map"] = {**(kwargs.get("auto_map") or {}), **AUTO_MAP}
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
        if self.resampler_config.hidden_size != self.vision_config.hidden_size:
            raise ValueError(
                f"resampler_config.hidden_size is {self.resampler_config.hidden_size} but the vision tower is "
                f"{self.vision_config.hidden_size} wide; set both to the same number."
            )

    @property
    def added_tokens(self) -> dict[str, int]:
        """Ids of the three added tokens, by token."""
        ids = (self.image_token_id, self.image_placeholder_token_id, self.end_of_chunk_token_id)
        return dict(zip(MULTIMODAL_TOKENS, ids, strict=True))

    @property
    def use_cache(self) -> bool:
        """Whether the language model returns its cache; scripts pass `use_cache` to `from_pretrained`."""
        return self.text_config.use_cache

    @use_cache.setter
    def use_cache(self, value: bool) -> None:
        self.text_config.use_cache = value

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return self.vision_config.image_size

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a tile."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds a config from the fields of a `config.json`, in our schema or the original's.

        Args:
            config_dict: The fields; it is not changed.
            **kwargs: As in `PretrainedConfig.from_dict`.

        Returns:
            The config; with `return_unused_kwargs` also the arguments that are not fields of it.

        Raises:
            ValueError: If a field is out of range.
        """
        is_original = is_original_schema(config_dict)
        result = super().from_dict(fields_from_original(config_dict) if is_original else dict(config_dict), **kwargs)
        (result[0] if isinstance(result, tuple) else result).original_schema = is_original
        return result

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> tuple[dict, dict]:
        """Reads `config.json`.

        With the original schema, it also reads `vision_config.json`, which states a tower other than SigLIP so400m.
        """
        fields, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        stated = Path(pretrained_model_name_or_path) / ORIGINAL_VISION_FILE
        if is_original_schema(fields) and stated.is_file():
            fields["vision_config"] = json.loads(stated.read_text(encoding="utf-8"))
        return fields, unused

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a dict."""
        output = super().to_dict()
        del output["original_schema"]
        output["text_config"] = rope_as_read(output["text_config"])
        return output

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns what `config.json` holds, with the rotary embedding in the form of both library lines.

        A sub-config keeps every field that its own class defines, because a missing value would be read back as *our*
        default (SigLIP so400m, Phi-3-mini). The library's common fields are left out at their defaults.
        """
        output = super().to_diff_dict()
        complete = self.to_dict()
        complete["text_config"] = write_rope_of_both_lines(complete["text_config"])
        common = PretrainedConfig().to_dict()
        for name in self.sub_configs:
            default = type(getattr(self, name))().to_dict()
            output[name] = {
                key: value
                for key, value in complete[name].items()
                if key == "model_type" or not (key in common and value == common[key] == default.get(key))
            }
        return output


def build_sub_config(value: PretrainedConfig | dict | None, default_type: str, defaults: dict) -> PretrainedConfig:
    """Builds a sub-config from an object, a full dict, a partial dict or nothing."""
    if isinstance(value, PretrainedConfig):
        return value
    fields = copy.deepcopy(value or {})
    model_type = fields.pop("model_type", default_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"Model type {model_type!r} is unknown to Transformers; use for example {default_type!r}.")
    if model_type == default_type:
        fields = {**defaults, **fields}
    return CONFIG_MAPPING[model_type](**read_rope_of_either_line(fields, model_type))


def build_resampler_config(value: PretrainedConfig | dict | None, vision_config: PretrainedConfig) -> PretrainedConfig:
    """Builds the resampler's config; its width is the vision tower's unless stated."""
    if isinstance(value, PretrainedConfig):
        return value
    fields = dict(value or {})
    fields.pop("model_type", None)
    return XGenMMResamplerConfig(**{"hidden_size": vision_config.hidden_size, **fields})


def without_pooling_head(config: PretrainedConfig) -> PretrainedConfig:
    """Turns the SigLIP pooling head off: nothing uses it, and its parameters would never get a gradient."""
    if not isinstance(config, SiglipVisionConfig) or getattr(config, "vision_use_head", True) is False:
        return config
    config = copy.deepcopy(config)
    config.vision_use_head = False
    return config


def is_original_schema(fields: dict[str, Any]) -> bool:
    """Tells whether the fields of a `config.json` are of the original checkpoints' schema."""
    return any(fields.get(name) is not None for name in ORIGINAL_SECTIONS)


def is_original_checkpoint(path: str | Path | None, kwargs: dict[str, Any]) -> bool:
    """Tells from the arguments of `from_pretrained` whether a checkpoint is in the original layout."""
    config = kwargs.get("config")
    if isinstance(config, PretrainedConfig):  # as remote code it may be another copy of XGenMMConfig
        return getattr(config, "original_schema", False)
    if path is None:
        return False
    hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    fields, _ = XGenMMConfig.get_config_dict(config or path, **hub_arguments)
    return is_original_schema(fields)


def fields_from_original(fields: dict[str, Any]) -> dict[str, Any]:
    """Translates the original schema into the arguments of `XGenMMConfig`."""
    encoder, sampler = (dict(fields.get(name) or {}) for name in ORIGINAL_SECTIONS)
    left_out = (*ORIGINAL_SECTIONS, "architectures", "model_type", "resampler_config")
    kept = {name: value for name, value in fields.items() if name not in left_out}
    text, tokenizer_length = text_fields_from_original(fields.get("text_config"))
    first = fields.get("model_type") == FIRST_RELEASE
    vision = fields.get("vision_config") or (DFN5B_VIT_H_378 if first else None)
    width = vision.get("hidden_size") if isinstance(vision, dict) else getattr(vision, "hidden_size", None)
    return {
        **kept,
        "vision_config": vision,
        "resampler_config": {
            "num_latents": sampler.get("num_vis_tokens", 128),
            "hidden_size": sampler.get("vis_feature_dim") or width or SIGLIP_SO400M_384["hidden_size"],
            "text_conditioned": first,
            "letterbox_mask": not first,
            **(fields.get("resampler_config") or {}),
        },
        "text_config": text,
        "image_token_id": tokenizer_length,
        "image_placeholder_token_id": tokenizer_length + 1,
        "end_of_chunk_token_id": tokenizer_length + 2,
        "image_aspect_ratio": encoder.get("image_aspect_ratio", "anyres"),
        "anyres_grids": None if first else encoder.get("anyres_grids"),
        "anyres_patch_sampling": encoder.get("anyres_patch_sampling", True),
    }


def text_fields_from_original(text: PretrainedConfig | dict | None) -> tuple[dict[str, Any], int]:
    """Translates the original text section.

    In the original's library a token attends to keys up to `sliding_window` positions away; current versions stop one
    earlier, so the number is increased by one. The section's dtype is left out because the top level states it.
    """
    if text is None:
        text = {"sliding_window": ORIGINAL_SLIDING_WINDOW}
    fields = dict(text.to_dict() if isinstance(text, PretrainedConfig) else text)
    fields.pop("torch_dtype", None)
    tokenizer_length = fields.pop("initial_tokenizer_len", ORIGINAL_TOKENIZER_LENGTH)
    window = fields.get("sliding_window")
    fields["sliding_window"] = None if window is None else window + 1
    fields["vocab_size"] = tokenizer_length + NUM_ADDED_TOKENS
    return fields, tokenizer_length
