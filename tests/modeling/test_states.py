"""States and attention of all three parts in one forward, module names for hooks, and the original's paths."""

import re
from pathlib import Path

import pytest
import torch

from xgenmm_hf import XGenMMForConditionalGeneration


ANATOMY = Path(__file__).parents[2] / "docs" / "anatomy.md"
ALL = {"output_hidden_states": True, "output_attentions": True}


@pytest.mark.parametrize("kind", ["siglip_vision_model", "clip_vision_model"])
def test_one_forward_gives_all_states(make_model, prompt, kind):
    model = make_model("eager", vision={"model_type": kind})
    with torch.no_grad():
        outputs = model(**prompt, **ALL)
        plain = model(**prompt)
    patches = 17 if kind == "clip_vision_model" else 16
    assert [state.shape for state in outputs.vision_hidden_states] == [(8, patches, 16)] * 3
    assert [weights.shape for weights in outputs.vision_attentions] == [(8, 2, patches, patches)] * 2
    assert [state.shape for state in outputs.resampler_hidden_states] == [(8, 4, 16)] * 3
    assert [weights.shape for weights in outputs.resampler_attentions] == [(8, 2, 4, 20)] * 2
    assert [weights.shape for weights in outputs.resampler_cross_attentions] == [(8, 2, 4, 16)] * 2
    assert len(outputs.hidden_states) == 3 and len(outputs.attentions) == 2
    # what the docstrings say about norms
    tower, resampler = model.vision_tower.vision_model, model.model.resampler
    last, final = outputs.vision_hidden_states[-1], outputs.image_outputs.last_hidden_state
    torch.testing.assert_close(last if patches == 17 else tower.post_layernorm(last), final)
    tokens = resampler.projection(resampler.norm(outputs.resampler_hidden_states[-1])).flatten(0, 1)
    torch.testing.assert_close(tokens, outputs.image_hidden_states)
    assert torch.equal(outputs.resampler_hidden_states[0][0], resampler.latents)
    for weights, crossed in zip(outputs.resampler_attentions, outputs.resampler_cross_attentions, strict=True):
        torch.testing.assert_close(weights.sum(-1), torch.ones(8, 2, 4))
        assert torch.equal(crossed, weights[..., :16])
    assert [len(image) for image in outputs.image_outputs.pooler_output] == [20, 12]
    torch.testing.assert_close(outputs.logits, plain.logits)
    assert plain.image_outputs is None and plain.vision_hidden_states is None and plain.resampler_attentions is None


def test_hidden_patches_get_no_attention(make_model, prompt):
    model = make_model()
    prompt["image_sizes"], prompt["image_num_tiles"] = torch.tensor([(20, 21), (60, 14)]), torch.tensor([5, 3])
    with torch.no_grad():
        outputs = model(**prompt, **ALL)
    hidden = outputs.resampler_cross_attentions[0][6:].sum((1, 2)) == 0
    assert hidden.any() and not hidden.all()
    # the resampler computes weights for the call; the tower has them only with eager attention
    assert outputs.vision_attentions is None and len(outputs.vision_hidden_states) == 3


def test_image_features_alone_have_them_too(make_model, images):
    model = make_model("eager")
    with torch.no_grad():
        outputs = model.get_image_features(**images, **ALL)
        assert model.get_image_features(**images).resampler_hidden_states is None
    assert len(outputs.hidden_states) == len(outputs.resampler_hidden_states) == 3
    assert len(outputs.attentions) == len(outputs.resampler_attentions) == 2


def test_text_queries_of_the_first_release_stand_behind_the_latents(make_config, prompt):
    config = make_config()
    config.resampler_config.text_conditioned = True
    model = XGenMMForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    ids = torch.cat([torch.arange(5, 9), torch.full((20,), 100), torch.arange(9, 14)])[None]
    inputs = {
        name: prompt[name][:end] for name, end in (("pixel_values", 5), ("image_sizes", 1), ("image_num_tiles", 1))
    }
    with torch.no_grad():
        outputs = model(input_ids=ids, **inputs, **ALL)
    queries = 4 + 10  # latents; nine words and the image
    assert [state.shape[:2] for state in outputs.resampler_hidden_states] == [(5, queries)] * 3
    assert [weights.shape for weights in outputs.resampler_attentions] == [(5, 2, queries, 16 + queries)] * 2
    assert [weights.shape for weights in outputs.resampler_cross_attentions] == [(5, 2, 4, 16)] * 2


def test_names_for_hooks_are_there(make_model):
    model = make_model()
    section = ANATOMY.read_text().split("## Names for hooks")[1].split("\n## ")[0]
    names = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    assert len(names) >= 12
    for name in names:
        model.get_submodule(name.replace(".N", ".1"))


def test_original_paths_resolve(make_model):
    model = make_model()
    assert model.vlm.vision_encoder is model.model.vision_tower.vision_model
    assert model.vlm.vision_tokenizer is model.model.resampler
    assert model.vlm.lang_model.model is model.model.language_model
    assert model.vlm.lang_model.lm_head is model.lm_head
    assert model.vlm.lang_model.get_input_embeddings() is model.get_input_embeddings()
    assert not any(name.startswith("vlm") for name in model.state_dict())
