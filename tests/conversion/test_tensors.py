"""Plans: which rows become what."""

import pytest
import torch

from xgenmm_hf.conversion import convert_state_dict, export_state_dict
from xgenmm_hf.conversion.tensors import Plan, listed, plan_conversion, plan_export
from xgenmm_hf.conversion.verify import expected_tensors
from xgenmm_hf.modeling.configuration_xgenmm import XGenMMConfig
from xgenmm_hf.modeling.modeling_xgenmm import XGenMMForConditionalGeneration


EMBEDDING = "vlm.lang_model.model.embed_tokens.weight"
ADDED = "vlm.lang_model.model.embed_tokens.additional_embedding.weight"


@pytest.fixture(scope="module")
def config(golden) -> XGenMMConfig:
    return XGenMMConfig.from_pretrained(golden / "anyres" / "checkpoint")


def test_decoupled_matrices_become_one(golden_tensors, config) -> None:
    ours = convert_state_dict(golden_tensors, config)
    embedding = ours["model.language_model.embed_tokens.weight"]
    assert embedding.shape == (303, 64)
    assert torch.equal(embedding[:300], golden_tensors[EMBEDDING][:300])
    assert torch.equal(embedding[300:], golden_tensors[ADDED])
    bias = ours["lm_head.bias"]
    assert torch.equal(bias[300:], golden_tensors["vlm.lang_model.lm_head.additional_fc.bias"])


def test_result_loads_strictly(golden_tensors, config) -> None:
    model = XGenMMForConditionalGeneration(config)
    model.load_state_dict(convert_state_dict(golden_tensors, config), strict=True)


@pytest.mark.parametrize("prefix", ["", "module.", "vlm."])
def test_prefixes_do_not_matter(golden_tensors, config, prefix: str) -> None:
    renamed = {prefix + name.removeprefix("vlm."): tensor for name, tensor in golden_tensors.items()}
    expected = convert_state_dict(golden_tensors, config)
    found = convert_state_dict(renamed, config)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_meta_tensors_convert(golden_tensors, config) -> None:
    ours = convert_state_dict({name: tensor.to("meta") for name, tensor in golden_tensors.items()}, config)
    assert all(tensor.is_meta for tensor in ours.values())


def test_missing_tensor_is_named(golden_tensors, config) -> None:
    tensors = dict(golden_tensors)
    del tensors["vlm.vision_tokenizer.layers.2.0.to_q.weight"]
    with pytest.raises(ValueError, match=r"1 tensors of the model .*resampler\.layers\.2\.attention\.q_proj\.weight"):
        convert_state_dict(tensors, config)


def test_missing_half_is_named(golden_tensors, config) -> None:
    tensors = dict(golden_tensors)
    del tensors[ADDED]
    with pytest.raises(ValueError, match="lacks lang_model.model.embed_tokens.additional_embedding.weight"):
        convert_state_dict(tensors, config)


def test_unknown_tensor_is_named(golden_tensors, config) -> None:
    tensors = {**golden_tensors, "vlm.something.else": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"no place in the model \(vlm\.something\.else\)"):
        convert_state_dict(tensors, config)


def test_extra_layer_is_named(golden_tensors, config) -> None:
    extra = "vlm.lang_model.model.layers.7.input_layernorm.weight"
    with pytest.raises(ValueError, match=r"layers\.7\.input_layernorm\.weight"):
        convert_state_dict({**golden_tensors, extra: torch.ones(64)}, config)


def test_wrong_shape_is_named(golden_tensors, config) -> None:
    tensors = {**golden_tensors, "vlm.vision_tokenizer.latents": torch.zeros(24, 8)}
    with pytest.raises(ValueError, match=r"model\.resampler\.latents: \(24, 8\) instead of \(8, 24\)"):
        convert_state_dict(tensors, config)


def test_too_few_rows(golden_tensors, config) -> None:
    tensors = {**golden_tensors, EMBEDDING: torch.zeros(200, 64)}
    with pytest.raises(ValueError, match="200 rows, fewer than the 300 tokens"):
        convert_state_dict(tensors, config)


def test_scalars_and_odd_ranks_are_refused(golden_tensors, config) -> None:
    tensors = {**golden_tensors, "vlm.vision_tokenizer.norm.bias": torch.tensor(1.0)}
    with pytest.raises(ValueError, match=r"model\.resampler\.norm\.bias: \(1,\) instead of \(24,\)|norm\.bias"):
        convert_state_dict(tensors, config)


def test_one_tensor_under_two_names(golden_tensors, config) -> None:
    tensors = {**golden_tensors, "vision_tokenizer.latents": torch.zeros(8, 24)}
    with pytest.raises(ValueError, match="holds one tensor twice"):
        convert_state_dict(tensors, config)


def test_missing_tower_names_the_option(golden_tensors, config) -> None:
    tensors = {name: tensor for name, tensor in golden_tensors.items() if ".vision_encoder." not in name}
    with pytest.raises(ValueError, match="--vision-encoder"):
        convert_state_dict(tensors, config)


def test_way_back_without_kept_rows(golden_tensors, config) -> None:
    back = export_state_dict(convert_state_dict(golden_tensors, config), config)
    for name, tensor in back.items():
        assert tensor.shape == golden_tensors[name].shape
        rows = 300 if tensor.shape[0] == 320 else tensor.shape[0]
        assert torch.equal(tensor[:rows], golden_tensors[name][:rows])
        assert not tensor[rows:].any()
    assert {name for name in golden_tensors if name not in back} == {
        name for name in golden_tensors if ".vision_encoder.head." in name
    }


def test_ours_back_and_forth(golden_tensors, config) -> None:
    ours = convert_state_dict(golden_tensors, config)
    again = convert_state_dict(export_state_dict(ours, config), config)
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def unused_rows(plan: Plan, shapes: dict) -> set[str]:
    """Names the sources of which a row is used twice or not at all, beside those that are dropped by name."""
    used = {name: torch.zeros(shape[0] if shape else 1, dtype=torch.int) for name, shape in shapes.items()}
    for target in (*plan.targets, *plan.padding):
        for piece in target.pieces:
            used[piece.source][piece.start : piece.stop] += 1
    return {name for name, counts in used.items() if not bool((counts == (name not in plan.dropped)).all())}


def test_every_row_is_used_once_both_ways(golden_tensors, config) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in golden_tensors.items()}
    expected = expected_tensors(config)
    plan = plan_conversion(shapes, expected, 300)
    assert len(plan.dropped) == 11 and unused_rows(plan, shapes) == set()
    padding = {target.name: target.shape for target in plan.padding}
    assert unused_rows(plan_export(expected, padding, 300, "transformers"), {**expected, **padding}) == set()


def test_long_lists_are_cut() -> None:
    assert listed(str(number) for number in range(30)) == "0, 1, 10, 11, 12 and 25 more"


def test_nothing_at_all() -> None:
    with pytest.raises(ValueError, match=r"1 tensors of the model are not in the checkpoint \(x\)"):
        plan_conversion({}, {"x": (1,)}, 1)
