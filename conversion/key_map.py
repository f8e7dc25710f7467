"""Tensor names of the original layouts and of ours: pure tables, read in both directions.

A pattern's ``{n}`` stands for a number and ``{rest}`` for the remainder of a name; the two sides of a pair hold the
same placeholders in the same order. Original names are written here without wrappers and without ``vlm.``.
"""

import re
from collections.abc import Iterable
from functools import cache


Pairs = tuple[tuple[str, str], ...]

TOWER = "model.vision_tower.vision_model."
ORIGINAL_TOWER = "vision_encoder."
ORIGINAL_PREFIX = "vlm."

# What training wrappers (DDP, activation checkpointing, FSDP, torch.compile) leave inside names.
WRAPPERS = ("module.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod.")

# Ours -> (the first initial_tokenizer_len rows of this, then all rows of that).
FOLDED = {
    "model.language_model.embed_tokens.weight": (
        "lang_model.model.embed_tokens.weight",
        "lang_model.model.embed_tokens.additional_embedding.weight",
    ),
    "lm_head.weight": ("lang_model.lm_head.weight", "lang_model.lm_head.additional_fc.weight"),
    "lm_head.bias": ("lang_model.lm_head.bias", "lang_model.lm_head.additional_fc.bias"),
}

LANGUAGE: Pairs = (("lang_model.model.{rest}", "model.language_model.{rest}"),)

RESAMPLER: Pairs = (
    ("vision_tokenizer.latents", "model.resampler.latents"),
    ("vision_tokenizer.layers.{n}.0.norm_media.{rest}", "model.resampler.layers.{n}.media_norm.{rest}"),
    ("vision_tokenizer.layers.{n}.0.norm_latents.{rest}", "model.resampler.layers.{n}.latents_norm.{rest}"),
    ("vision_tokenizer.layers.{n}.0.to_q.{rest}", "model.resampler.layers.{n}.attention.q_proj.{rest}"),
    ("vision_tokenizer.layers.{n}.0.to_kv.{rest}", "model.resampler.layers.{n}.attention.kv_proj.{rest}"),
    ("vision_tokenizer.layers.{n}.0.to_out.{rest}", "model.resampler.layers.{n}.attention.out_proj.{rest}"),
    ("vision_tokenizer.layers.{n}.1.0.{rest}", "model.resampler.layers.{n}.mlp_norm.{rest}"),
    ("vision_tokenizer.layers.{n}.1.1.{rest}", "model.resampler.layers.{n}.mlp.fc1.{rest}"),
    ("vision_tokenizer.layers.{n}.1.3.{rest}", "model.resampler.layers.{n}.mlp.fc2.{rest}"),
    ("vision_tokenizer.text_projection.0.{rest}", "model.resampler.text_projection.fc1.{rest}"),
    ("vision_tokenizer.text_projection.2.{rest}", "model.resampler.text_projection.fc2.{rest}"),
    ("vision_tokenizer.norm.{rest}", "model.resampler.norm.{rest}"),
    ("vision_tokenizer.projection.{rest}", "model.resampler.projection.{rest}"),
)

# Vision towers, per format: names after "vision_encoder." -> names after our tower's prefix.
TRANSFORMERS_TOWER: Pairs = (("{rest}", "{rest}"),)
OPENCLIP_TOWER: Pairs = (
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("conv1.{rest}", "embeddings.patch_embedding.{rest}"),
    ("ln_pre.{rest}", "pre_layrnorm.{rest}"),
    ("transformer.resblocks.{n}.ln_1.{rest}", "encoder.layers.{n}.layer_norm1.{rest}"),
    ("transformer.resblocks.{n}.ln_2.{rest}", "encoder.layers.{n}.layer_norm2.{rest}"),
    ("transformer.resblocks.{n}.attn.out_proj.{rest}", "encoder.layers.{n}.self_attn.out_proj.{rest}"),
    ("transformer.resblocks.{n}.mlp.c_fc.{rest}", "encoder.layers.{n}.mlp.fc1.{rest}"),
    ("transformer.resblocks.{n}.mlp.c_proj.{rest}", "encoder.layers.{n}.mlp.fc2.{rest}"),
    ("ln_post.{rest}", "post_layernorm.{rest}"),
)
TIMM_TOWER: Pairs = (
    ("trunk.patch_embed.proj.{rest}", "embeddings.patch_embedding.{rest}"),
    ("trunk.pos_embed", "embeddings.position_embedding.weight"),
    ("trunk.blocks.{n}.norm1.{rest}", "encoder.layers.{n}.layer_norm1.{rest}"),
    ("trunk.blocks.{n}.norm2.{rest}", "encoder.layers.{n}.layer_norm2.{rest}"),
    ("trunk.blocks.{n}.attn.proj.{rest}", "encoder.layers.{n}.self_attn.out_proj.{rest}"),
    ("trunk.blocks.{n}.mlp.fc1.{rest}", "encoder.layers.{n}.mlp.fc1.{rest}"),
    ("trunk.blocks.{n}.mlp.fc2.{rest}", "encoder.layers.{n}.mlp.fc2.{rest}"),
    ("trunk.norm.{rest}", "post_layernorm.{rest}"),
)

# One tensor that holds query, key and value projections on top of each other -> our three.
OPENCLIP_STACKED: Pairs = (
    ("transformer.resblocks.{n}.attn.in_proj_{rest}", "encoder.layers.{n}.self_attn.{qkv}_proj.{rest}"),
)
TIMM_STACKED: Pairs = (("trunk.blocks.{n}.attn.qkv.{rest}", "encoder.layers.{n}.self_attn.{qkv}_proj.{rest}"),)

# A name that only this format has, and what of the format never reaches a feature: pooling heads, projections.
TOWER_MARKS = {
    "transformers": "embeddings.patch_embedding.weight",
    "openclip": "conv1.weight",
    "timm": "trunk.patch_embed.proj.weight",
}
TOWER_PAIRS = {"transformers": TRANSFORMERS_TOWER, "openclip": OPENCLIP_TOWER, "timm": TIMM_TOWER}
TOWER_STACKED = {"transformers": (), "openclip": OPENCLIP_STACKED, "timm": TIMM_STACKED}
TOWER_UNUSED = {
    "transformers": ("head.", "embeddings.position_ids"),
    "openclip": ("proj",),
    "timm": ("trunk.attn_pool.", "head."),
}


def strip_wrappers(name: str) -> str:
    """Returns an original name without `vlm.` and without what training wrappers put into it."""
    for wrapper in WRAPPERS[1:]:
        name = name.replace(wrapper, "")
    while name.startswith((WRAPPERS[0], ORIGINAL_PREFIX)):
        name = name.removeprefix(WRAPPERS[0]).removeprefix(ORIGINAL_PREFIX)
    return name


def tower_format(names: Iterable[str]) -> str | None:
    """Tells which library wrote a vision tower."""
    present = set(names)
    return next((kind for kind, mark in TOWER_MARKS.items() if mark in present), None)


def translate(name: str, pairs: Pairs, reverse: bool = False) -> str | None:
    """Renames a tensor by a table."""
    for left, right in pairs:
        source, target = (right, left) if reverse else (left, right)
        match = _compiled(source).fullmatch(name)
        if match:
            found = match.groupdict()
            for key in ("n", "rest"):
                target = target.replace("{" + key + "}", found.get(key, ""))
            return target
    return None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern)
    for key, expression in (("n", r"(?P<n>\d+)"), ("rest", r"(?P<rest>.+)"), ("qkv", r"(?P<qkv>[qkv])")):
        escaped = escaped.replace(re.escape("{" + key + "}"), expression)
    return re.compile(escaped)


def is_unused(name: str, kind: str) -> bool:
    """Tells whether a tower's tensor is one that no feature depends on."""
    return any(name == mark or (mark.endswith(".") and name.startswith(mark)) for mark in TOWER_UNUSED[kind])
