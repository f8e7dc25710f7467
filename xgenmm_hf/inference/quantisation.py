"""Loading the decoder's layers in fewer bits by bitsandbytes; tower, resampler and head stay whole."""

import importlib.util
import re
from typing import Any

from torch import nn


TOWER, RESAMPLER, HEAD = "model.vision_tower", "model.resampler", "lm_head"
KEPT_WHOLE = (TOWER, RESAMPLER, HEAD)
DECODER_LAYERS = r"model\.language_model\.layers\.\d+\."


def keep_whole(config: Any) -> Any:
    """Makes a `BitsAndBytesConfig` leave out what stays whole."""
    config.llm_int8_skip_modules = list(KEPT_WHOLE)
    return config


def check_installed(purpose: str) -> None:
    """Refuses a purpose where bitsandbytes is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"{purpose} needs bitsandbytes: pip install 'xgenmm-hf[quant]'.")


def linear_layers(model: nn.Module, within: str) -> list[str]:
    """Returns the full names of the linear layers whose name begins with an expression."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and re.match(within, name)]


def check_quantised(model: nn.Module) -> None:
    """Checks that quantised loading replaced the linear layers of the decoder's layers, all of them and no others."""
    from bitsandbytes import nn as quantised

    kinds = (quantised.Linear4bit, quantised.Linear8bitLt)
    found = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    expected = set(linear_layers(model, DECODER_LAYERS))
    if found != expected:
        odd = sorted(found ^ expected)
        raise ValueError(
            f"Quantised loading left out or took {len(odd)} layers too many, such as {odd[0]}: report the versions of "
            "transformers and bitsandbytes, and load the model whole."
        )
