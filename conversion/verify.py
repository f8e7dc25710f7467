"""Checks on the model side: what tensors a config means, and whether a written folder holds exactly them."""

from collections.abc import Mapping
from pathlib import Path

import torch

from xgenmm_hf.conversion.sources import Weights
from xgenmm_hf.conversion.tensors import Shape, listed, one_line
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


def meta_model(config: XGenMMConfig) -> XGenMMForConditionalGeneration:
    """Builds the model on the meta device; a config whose values make no model raises a ValueError."""
    try:
        with torch.device("meta"):
            return XGenMMForConditionalGeneration(config)
    except ValueError:
        raise
    except Exception as error:  # layers of two library lines reject impossible sizes with errors of their own
        raise ValueError(f"No model can be built from this config ({one_line(error)}); check its sizes.") from error


def expected_tensors(config: XGenMMConfig) -> dict[str, Shape]:
    """Returns the shapes of a model's tensors by name, in the model's order."""
    return {name: tuple(tensor.shape) for name, tensor in meta_model(config).state_dict().items()}


def verify_model_folder(folder: Path, config: XGenMMConfig, dtypes: Mapping[str, torch.dtype]) -> None:
    """Checks a written folder: every tensor there once with its shape and dtype, and a strict load.

    The weights stay in their memory-mapped files; nothing is copied.
    """
    weights = Weights.read(folder)
    model = meta_model(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    compare(weights, expected, dtypes, f"What was written to {folder} differs from what should be there")
    outcome = model.load_state_dict({name: weights.load(name) for name in expected}, strict=True, assign=True)
    if outcome.missing_keys or outcome.unexpected_keys:
        raise ValueError(f"{folder} does not load: {listed([*outcome.missing_keys, *outcome.unexpected_keys])}.")


def compare(
    weights: Weights, expected: Mapping[str, Shape], dtypes: Mapping[str, torch.dtype], complaint: str
) -> None:
    """Raises a ValueError that begins with `complaint` where names, shapes or dtypes on disk are not the expected."""
    differing = set(weights.shapes) ^ set(expected)
    for name in set(expected) - differing:
        if weights.shapes[name] != tuple(expected[name]) or weights.dtypes[name] != dtypes[name]:
            differing.add(name)
    if differing:
        raise ValueError(
            f"{complaint} ({len(differing)} tensors differ: {listed(differing)}); use the files of one model."
        )
