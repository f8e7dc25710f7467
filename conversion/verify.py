"""Checks on the model side: the tensors that a config describes, and whether others match them."""

from collections.abc import Mapping
from typing import Any

import torch

from xgenmm_hf.conversion.files import one_line
from xgenmm_hf.conversion.tensors import Shape, listed
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


def shapes_and_dtypes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[Shape, torch.dtype]]:
    """Returns the shapes and dtypes of tensors by name, for `check_same`."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any], complaint: str) -> None:
    """Raises a ValueError that begins with `complaint` if names or their values differ."""
    differing = [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]
    if differing:
        raise ValueError(
            f"{complaint} ({len(differing)} tensors differ: {listed(differing)}); use the files of one model."
        )
