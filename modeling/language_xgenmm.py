"""The language model: any decoder of the library, and for vLLM's tensor parallelism Phi-3 in separate projections."""

from torch import nn
from transformers import AutoModel, MistralConfig, PretrainedConfig

from .compat_xgenmm import read_rope_of_either_line, write_rope_of_both_lines
from .configuration_xgenmm import XGenMMConfig


VLLM = "vllm"
# what Mistral's config shares with Phi-3's
SHARED_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "use_cache", "original_max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
    "sliding_window", "attention_dropout", "dtype", "rope_parameters", "rope_theta", "rope_scaling",
)  # fmt: skip


def build_language_model(config: XGenMMConfig) -> nn.Module:
    """Builds the language model without its head.

    vLLM gives each rank its share of the attention heads. Phi-3's modules compute query, key and value in one
    projection and gather all heads on every rank, so vLLM gets the same network as Mistral's modules, which keep the
    projections apart. It splits the stored `qkv_proj` and `gate_up_proj` between them itself.
    """
    text = config.text_config
    if text._attn_implementation == VLLM and config.resampler_config.text_conditioned:
        raise ValueError(
            "vLLM cannot run this checkpoint: the first release reads each image together with its prompt, and vLLM "
            "encodes images without it; run it with Transformers."
        )
    if text._attn_implementation != VLLM or text.model_type != "phi3":
        return AutoModel.from_config(text)
    separate = separate_projections(text)
    separate._attn_implementation = VLLM
    return AutoModel.from_config(separate)


def separate_projections(config: PretrainedConfig) -> MistralConfig:
    """Returns the Mistral config of the same network as a Phi-3 config."""
    fields = write_rope_of_both_lines(config.to_dict())
    rope = fields.get("rope_parameters") or {}
    partial = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise ValueError(
            f"vLLM cannot run this checkpoint: its text_config has partial_rotary_factor {partial}, and the modules "
            "that vLLM splits between devices rotate whole heads; run it with Transformers."
        )
    longest, trained = config.max_position_embeddings, config.original_max_position_embeddings
    if rope.get("rope_type") == "longrope" and longest != trained:
        raise ValueError(
            "vLLM cannot run this checkpoint: its text_config scales the rotary embedding by longrope for prompts "
            f"above {trained} tokens; run it with Transformers, or set max_position_embeddings to {trained}."
        )
    fields = {name: fields[name] for name in SHARED_FIELDS if fields.get(name) is not None or name == "sliding_window"}
    fields.setdefault("head_dim", config.hidden_size // config.num_attention_heads)
    return MistralConfig(**read_rope_of_either_line(fields, MistralConfig.model_type))
