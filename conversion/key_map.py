"""Tensor names of the original layouts and of ours: pure tables, read in both directions.

A pattern's ``{n}`` stands for a number and ``{rest}`` for the remainder of a name; the two sides of a pair hold the
same placeholders in the same order. Original names are written here without wrappers and without ``vlm.``.
"""

import re
from collections.abc import Container
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

# Vision towers, per format: names after "vision_encoder." -> names after our tower's prefix. {qkv} stands for three
# tensors: one tensor that stacks the query, key and value projections is split into them.
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
    ("transformer.resblocks.{n}.attn.in_proj_{rest}", "encoder.layers.{n}.self_attn.{qkv}_proj.{rest}"),
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
    ("trunk.blocks.{n}.attn.qkv.{rest}", "encoder.layers.{n}.self_attn.{qkv}_proj.{rest}"),
    ("trunk.norm.{rest}", "post_layernorm.{rest}"),
)
TOWERS = {"transformers": TRANSFORMERS_TOWER, "openclip": OPENCLIP_TOWER, "timm": TIMM_TOWER}

# Per format: a name that no other has, and the prefixes of tensors that no feature depends on (pooling heads, ...).
TOWER_MARKS = {
    "transformers": "embeddings.patch_embedding.weight",
    "openclip": "conv1.weight",
    "timm": "trunk.patch_embed.proj.weight",
}
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


def tower_format(names: Container[str]) -> str | None:
    """Tells from a checkpoint's names which library wrote its vision tower, a key of `TOWERS`."""
    return next((kind for kind, mark in TOWER_MARKS.items() if ORIGINAL_TOWER + mark in names), None)


def is_unused(name: str, kind: str | None) -> bool:
    """Tells whether a tensor is one of the tower that no feature depends on."""
    marks = TOWER_UNUSED[kind] if kind is not None else ()
    return name.startswith(tuple(ORIGINAL_TOWER + mark for mark in marks))


@cache
def all_pairs(kind: str | None) -> Pairs:
    """Returns the names of a whole checkpoint, (original, ours), whose tower is of one format."""
    tower = TOWERS[kind] if kind is not None else ()
    return (*RESAMPLER, *LANGUAGE, *((ORIGINAL_TOWER + left, TOWER + right) for left, right in tower))


def translate(name: str, pairs: Pairs, reverse: bool = False) -> str | None:
    """Renames a tensor by a table."""
    for left, right in pairs:
        source, target = (right, left) if reverse else (left, right)
        match = _compiled(source).fullmatch(name)
        if match:
            for key, found in match.groupdict().items():
                target = target.replace("{" + key + "}", found)
            return target
    return None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern)
    for key, expression in (("n", r"(?P<n>\d+)"), ("rest", r"(?P<rest>.+)"), ("qkv", r"(?P<qkv>[qkv])")):
        escaped = escaped.replace(re.escape("{" + key + "}"), expression)
    return re.compile(escaped)
