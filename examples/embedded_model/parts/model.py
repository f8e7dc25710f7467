"""The embedded model's shape: a whole xGen-MM of about two million parameters.

Everything of the large models is there (SigLIP tower, perceiver resampler, Phi-3 text, any-resolution grids), only
narrow and shallow: a tile has 64 x 64 pixels, 8 x 8 patches and becomes 16 tokens.
"""

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any


TILE_SIZE = 64
PATCH_SIZE = 8
PATCHES_PER_SIDE = TILE_SIZE // PATCH_SIZE
NUM_LATENTS = 16
ANYRES_GRIDS = [[64, 128], [128, 64], [128, 128], [192, 64], [64, 192]]
WIDTH = 128
MAX_LENGTH = 2048

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": TILE_SIZE,
    "patch_size": PATCH_SIZE,
    "vision_use_head": False,
}
RESAMPLER = {"num_latents": NUM_LATENTS, "depth": 2, "num_heads": 4, "head_dim": 32, "hidden_size": WIDTH}
TEXT = {
    "model_type": "phi3",
    "hidden_size": WIDTH,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": MAX_LENGTH,
    "original_max_position_embeddings": MAX_LENGTH,
    "sliding_window": None,
}


def build_config(tokenizer: Any) -> Any:
    """Returns the `XGenMMConfig` of the embedded model for a tokenizer."""
    from xgenmm_hf import XGenMMConfig

    ids = dict(zip(("image", "placeholder", "chunk"), tokenizer.convert_tokens_to_ids(_ADDED_TOKENS), strict=True))
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return XGenMMConfig(
        vision_config=VISION,
        resampler_config=RESAMPLER,
        text_config={**TEXT, "vocab_size": len(tokenizer), **special},
        image_token_id=ids["image"],
        image_placeholder_token_id=ids["placeholder"],
        end_of_chunk_token_id=ids["chunk"],
        anyres_grids=ANYRES_GRIDS,
    )


def build_image_processor() -> Any:
    """Returns the `XGenMMImageProcessor` of the embedded model."""
    from xgenmm_hf import XGenMMImageProcessor

    return XGenMMImageProcessor(anyres_grids=ANYRES_GRIDS, size={"height": TILE_SIZE, "width": TILE_SIZE})


def build_processor(tokenizer: Any) -> Any:
    """Returns the `XGenMMProcessor` of the embedded model."""
    from xgenmm_hf import XGenMMProcessor

    return XGenMMProcessor(image_processor=build_image_processor(), tokenizer=tokenizer, num_latents=NUM_LATENTS)


def build_model(tokenizer: Any, attention: str = "sdpa") -> Any:
    """Returns an untrained model.

    Args:
        tokenizer: The embedded tokenizer.
        attention: Attention implementation of all three parts.

    Returns:
        An `XGenMMForConditionalGeneration` in float32 whose answers end at `<|end|>` or `<|endoftext|>`.
    """
    from xgenmm_hf import XGenMMForConditionalGeneration

    model = XGenMMForConditionalGeneration._from_config(build_config(tokenizer), attn_implementation=attention)
    settings = model.generation_config
    settings.eos_token_id = tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"])
    settings.pad_token_id, settings.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
    return model


def save_checkpoint(model: Any, processor: Any, folder: str | Path) -> None:
    """Writes a complete float16 checkpoint, beside its place first; one that is there is replaced.

    The code files of remote-code repositories are left out: the checkpoint is part of the package that holds them.

    Args:
        model: The model; it stays as it is.
        processor: The processor that belongs to it.
        folder: Where the checkpoint goes.
    """
    import torch

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        staged = Path(scratch, folder.name)
        halved = copy.deepcopy(model).to(torch.float16)
        for part in halved.config.sub_configs:
            getattr(halved.config, part).dtype = None  # stated once, for the whole
        halved.save_pretrained(staged)
        processor.save_pretrained(staged)
        for code in staged.glob("*.py"):
            code.unlink()
        for file in staged.iterdir():
            file.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        staged.chmod(0o755)
        staged.rename(folder)


def save_weights(model: Any, file: Path) -> None:
    """Writes a model's tensors, beside their place first."""
    from safetensors.torch import save_file

    staged = file.with_name(f"{file.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, staged)
    staged.replace(file)


def load_weights(model: Any, file: Path) -> None:
    """Reads what `save_weights` wrote; every tensor must fit."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(file))


_ADDED_TOKENS = ["<image>", "<image placeholder>", "<|endofchunk|>"]
