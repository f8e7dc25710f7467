"""Names of the original and of ours."""

import json
from math import prod
from pathlib import Path

import pytest

from xgenmm_hf.conversion import key_map
from xgenmm_hf.conversion.tensors import plan_conversion, plan_export
from xgenmm_hf.conversion.verify import expected_tensors
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig


PADDING_ROWS = 52


@pytest.mark.parametrize(
    "name",
    [
        "vlm.lang_model.lm_head.bias",
        "lang_model.lm_head.bias",
        "module.lang_model.lm_head.bias",
        "module.vlm.lang_model.lm_head.bias",
        "_orig_mod.module.lang_model._fsdp_wrapped_module.lm_head._checkpoint_wrapped_module.bias",
    ],
)
def test_wrappers_are_stripped(name: str) -> None:
    assert key_map.strip_wrappers(name) == "lang_model.lm_head.bias"


@pytest.mark.parametrize("pairs", [key_map.RESAMPLER, key_map.LANGUAGE, key_map.OPENCLIP_TOWER, key_map.TIMM_TOWER])
def test_tables_read_both_ways(pairs: key_map.Pairs) -> None:
    for left, _ in pairs:
        name = left.replace("{n}", "11").replace("{rest}", "weight")
        ours = key_map.translate(name, pairs)
        assert ours is not None
        for letter in "qkv":
            assert key_map.translate(ours.replace("{qkv}", letter), pairs, reverse=True) == name


def test_unknown_names_have_no_translation() -> None:
    assert key_map.translate("vision_tokenizer.layers.x.0.to_q.weight", key_map.RESAMPLER) is None


def full_size_shapes() -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Returns the original's shapes of the 4B model, derived from our tables, and ours."""
    ours = expected_tensors(XGenMMConfig())
    padding = {old: (PADDING_ROWS, *ours[name][1:]) for name, (old, _) in key_map.FOLDED.items()}
    plan = plan_export(ours, padding, 32012, "transformers")
    original = {target.name: target.shape for target in plan.targets}
    width = 1152
    head = {
        "probe": (1, 1, width),
        "attention.in_proj_weight": (3 * width, width),
        "attention.in_proj_bias": (3 * width,),
        "attention.out_proj.weight": (width, width),
        "attention.out_proj.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
        "mlp.fc1.weight": (4304, width),
        "mlp.fc1.bias": (4304,),
        "mlp.fc2.weight": (width, 4304),
        "mlp.fc2.bias": (width,),
    }
    original |= {f"vlm.vision_encoder.head.{name}": shape for name, shape in head.items()}
    return original, ours


def test_full_size_model_maps_completely() -> None:
    original, ours = full_size_shapes()
    assert len(original) == 718
    assert original["vlm.lang_model.model.embed_tokens.weight"] == (32064, 3072)
    plan = plan_conversion(original, ours, 32012)
    assert {target.name for target in plan.targets} == set(ours)
    assert all(name.startswith("vlm.vision_encoder.head.") for name in plan.dropped)
    assert len(plan.dropped) == 11
    assert [target.shape[0] for target in plan.padding] == [PADDING_ROWS] * 3


def test_derived_names_are_the_released_ones(real_checkpoint: Path) -> None:
    index = json.loads((real_checkpoint / "model.safetensors.index.json").read_text())
    original, _ = full_size_shapes()
    assert set(index["weight_map"]) == set(original)
    # 4 bytes per number; what remains is the index's own count of an epsilon of headers.
    assert abs(index["metadata"]["total_size"] - 4 * sum(prod(shape) for shape in original.values())) < 1e3
