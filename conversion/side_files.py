"""Everything in a converted folder but the weights: configs, tokenizer, processor, code, model card.

Data that our config has no place for is kept in a sub-folder ``original/`` (the source's JSON files, and the rows of
the old embedding and head that no id reaches), so that export gives the same bits. The model never reads it.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from xgenmm_hf.conversion.files import write_json
from xgenmm_hf.conversion.model_card import (
    model_table,
    new_card,
    read_card,
    released_license,
    set_usage,
)
from xgenmm_hf.conversion.original_config import CONFIG_NAME, GENERATION_NAME, PREPROCESSOR_NAME, first_added_id
from xgenmm_hf.conversion.tensors import Plan, assemble
from xgenmm_hf.conversion.tokenizer import build_tokenizer
from xgenmm_hf.conversion.towers import OPENCLIP_CONFIG
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.image_processing_xgenmm import XGenMMImageProcessor
from xgenmm_hf.modeling.processing_xgenmm import XGenMMProcessor
from xgenmm_hf.modeling.remote_code_xgenmm import copy_remote_code


if TYPE_CHECKING:
    from xgenmm_hf.conversion.convert import Original

KEPT_FOLDER = "original"
PADDING_NAME = "padding.safetensors"
SENTENCEPIECE_NAME = "tokenizer.model"
TOKENIZER_FILES = ("tokenizer.json", SENTENCEPIECE_NAME)
END_TOKENS = ("<|end|>", "<|endoftext|>")
NO_TOKENIZER = (
    "No tokenizer files were found, so none were written: pass --tokenizer with a folder or repo id that has them "
    "(for the 4B models any released xGen-MM checkpoint)."
)


def write_side_files(
    folder: Path,
    out: Path,
    original: "Original",
    config: XGenMMConfig,
    plan: Plan,
    dtype: torch.dtype | None,
    tokenizer_folder: Path | None,
) -> list[str]:
    """Writes all files of a converted checkpoint but its weights; returns notes."""
    normalisation = _normalisation(original, config)
    for name, values in normalisation.items():
        if values != [0.5, 0.5, 0.5]:  # the default, which a config leaves out
            setattr(config, name, values)  # the model normalises tiles that come as uint8
    config.architectures = ["XGenMMForConditionalGeneration"]
    config.save_pretrained(folder)
    source, tokenizer = tokenizer_folder or original.folder, None
    if tokenizer_folder is not None or any((source / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = build_tokenizer(source, first_added_id(config))
        if config.image_aspect_ratio == "none":
            tokenizer.chat_template = None  # a base checkpoint, which was never tuned on chats
    write_processor(folder, config, tokenizer, normalisation)
    _write_generation_config(folder, config, tokenizer, original.side_files.get(GENERATION_NAME, {}))
    copy_remote_code(folder)
    _write_card(folder, out, original, config, plan)
    keep_original(folder, original, plan, dtype)
    sentencepiece = source / SENTENCEPIECE_NAME
    if sentencepiece.is_file():  # the original's slow tokenizer reads this one, ours does not
        shutil.copyfile(sentencepiece, folder / KEPT_FOLDER / SENTENCEPIECE_NAME)
    return [] if tokenizer is not None else [NO_TOKENIZER]


def _write_card(folder: Path, out: Path, original: "Original", config: XGenMMConfig, plan: Plan) -> None:
    """Writes the model card; the licence is what the source's card states, else its release's."""
    stated = read_card(original.folder / "README.md")
    # A Hub snapshot lies in models--owner--name/snapshots/<revision>.
    cached = [part for part in original.folder.absolute().parts if part.startswith("models--")]
    name = cached[-1].split("--")[-1] if cached else original.folder.absolute().name
    intro = (
        "An xGen-MM (BLIP-3) checkpoint, converted from the original layout by the `xgenmm-hf` package. The weights "
        "are the original's, renamed; the licence and the limits of the original model apply."
    )
    card = new_card(
        name or "xgenmm",
        intro,
        {"Model": model_table(config, {target.name: target.shape for target in plan.targets})},
        license=(stated and stated.data.license) or released_license(config),
    )
    set_usage(card, str(out), folder, config)
    card.save(folder / "README.md")


def write_processor(
    folder: Path,
    config: XGenMMConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    normalisation: Mapping[str, list[float]],
) -> None:
    """Writes the processor, or without a tokenizer the image processor alone."""
    image_processor = XGenMMImageProcessor(
        image_aspect_ratio=config.image_aspect_ratio,
        anyres_grids=config.anyres_grids,
        size={"height": config.tile_size, "width": config.tile_size},
        **normalisation,
    )
    if tokenizer is None:
        image_processor.save_pretrained(str(folder))
        return
    XGenMMProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        num_latents=config.resampler_config.num_latents,
        anyres_patch_sampling=config.anyres_patch_sampling,
        max_images_per_prompt=1 if config.resampler_config.text_conditioned else None,
    ).save_pretrained(str(folder))


def _normalisation(original: "Original", config: XGenMMConfig) -> dict[str, list[float]]:
    """Returns the mean and deviation that pixels are normalised with, where the source states them."""
    stated = original.side_files.get(PREPROCESSOR_NAME, {})
    found = {key: stated[key] for key in ("image_mean", "image_std") if stated.get(key)}
    if not found and original.encoder is not None:
        openclip = original.encoder.openclip.get("preprocess_cfg") or {}
        found = {f"image_{key}": openclip[key] for key in ("mean", "std") if openclip.get(key)}
    if not found and config.resampler_config.text_conditioned:
        found = {"image_mean": list(OPENAI_CLIP_MEAN), "image_std": list(OPENAI_CLIP_STD)}
    for key, value in found.items():
        if not (isinstance(value, list) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)):
            raise ValueError(
                f"{key} is {value!r} in {PREPROCESSOR_NAME} or {OPENCLIP_CONFIG}; expected three numbers."
            )
    return found


def _write_generation_config(
    folder: Path, config: XGenMMConfig, tokenizer: PreTrainedTokenizerBase | None, kept: Mapping[str, Any]
) -> None:
    """Writes the generation config: generation ends at the end of a turn or of the text."""
    text = config.text_config
    ids = {key: kept.get(key, getattr(text, key, None)) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if tokenizer is not None:
        vocabulary = tokenizer.get_vocab()
        ends = [vocabulary[token] for token in END_TOKENS if token in vocabulary]
        ids = {name: getattr(tokenizer, name) for name in ids}
        ids["eos_token_id"] = ends or ids["eos_token_id"]
    GenerationConfig(**ids).save_pretrained(folder)


def keep_original(folder: Path, original: "Original", plan: Plan, dtype: torch.dtype | None) -> None:
    """Writes the data that export needs and our layout has no place for."""
    kept = folder / KEPT_FOLDER
    kept.mkdir()
    for name, content in {CONFIG_NAME: original.config, **original.side_files}.items():
        if content:
            write_json(kept / name, content)
    if plan.padding:
        rows = {target.name: assemble(target, original.weights.load, dtype) for target in plan.padding}
        save_file(rows, kept / PADDING_NAME, metadata={"format": "pt"})
