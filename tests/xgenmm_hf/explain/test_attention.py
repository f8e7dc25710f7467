"""Attention images of the embedded model, and the formula on numbers worked out by hand."""

import numpy as np
import pytest
import torch
from embedded_model.world.render import place_contents, render
from embedded_model.world.scene import HELD_OUT, make_scene
from PIL import Image
from transformers import DynamicCache

from xgenmm_hf import TINY_MODEL, XGenMMConfig, XGenMMForConditionalGeneration, image_token_addresses
from xgenmm_hf.explain.attention import explain_answer, read_attention, roll_out, weigh_tokens
from xgenmm_hf.explain.overlay import color_of, draw_overlay
from xgenmm_hf.inference.asking import ask
from xgenmm_hf.inference.loading import load
from xgenmm_hf.modeling.chat_xgenmm import RELEASED_SYSTEM


QUESTION = "What color is the {}?"


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL)


def scenes_with_a_lone_shape(count: int):
    """Yields held-out scenes of several shapes with one whose kind occurs once, so that asking for it is clear."""
    seed = 10_000_000
    while count:
        scene, seed = make_scene(seed, HELD_OUT), seed + 1
        shapes = [item.shape for item in scene.items]
        lone = [item for item in scene.items if shapes.count(item.shape) == 1]
        if len(scene.items) >= 2 and lone:
            count -= 1
            yield scene, lone[0]


@pytest.fixture(scope="module")
def lifts(loaded):
    """Where the last layer looks for a colour, in 24 scenes: the asked shape's share of the heat by its share of the
    area, the same for the other shapes, and the number of right answers.
    """
    shares, areas, others, right = [], [], [], 0
    last = loaded.model.config.text_config.num_hidden_layers - 1
    for scene, item in scenes_with_a_lone_shape(24):
        question = QUESTION.format(item.shape)
        found = explain_answer(loaded, render(scene, 256), question, system=RELEASED_SYSTEM, text_layer=last)
        right += found.answer == item.color
        for drawn in place_contents(scene):
            if drawn.content not in scene.items:
                continue
            height, width = found.pixels.shape
            box = drawn.box
            rows = slice(max(0, round(box.top * height)), round(box.bottom * height))
            columns = slice(max(0, round(box.left * width)), round(box.right * width))
            share = found.pixels[rows, columns].sum()
            area = (box.bottom - box.top) * (box.right - box.left)
            if drawn.content is item:
                shares.append(share)
                areas.append(area)
            else:
                others.append(share / area)
    return np.array(shares) / np.array(areas), np.mean(others), right


def test_heat_prefers_the_shape_that_is_asked_for(lifts):
    asked, others, right = lifts
    assert right >= 22
    assert asked.mean() > 2
    assert asked.mean() > 1.3 * others


def test_heat_prefers_it_in_nearly_every_scene(lifts):
    assert (lifts[0] > 1).sum() >= 22


@pytest.fixture(scope="module")
def image():
    return render(make_scene(3, HELD_OUT, layout="wide", with_word=False), 300)


@pytest.fixture(scope="module")
def found(loaded, image):
    return explain_answer(loaded, image, "How many shapes are there?")


def test_explains_what_is_answered(loaded, image, found):
    assert found.answer == ask(loaded, [image], "How many shapes are there?").text
    assert found.pixels.shape == (image.height, image.width)
    assert found.pixels.sum() == pytest.approx(1)
    assert found.patches.sum() == pytest.approx(1)
    assert 0.05 < found.image_share < 1
    assert 0 <= found.outside < 0.2


def test_model_is_left_as_it_was(loaded, found):
    parts = (loaded.model.model.resampler, loaded.model.model.language_model)
    assert {part.config._attn_implementation for part in parts} == {"sdpa"}
    assert not any(layer.attention._forward_hooks for layer in loaded.model.model.resampler.layers)


def test_record(found):
    record = found.as_record(top=3)
    height, width = found.addresses.image_sizes[0].tolist()
    assert [tile["tile"] for tile in record["tiles"]] == list(range(len(found.patches)))
    assert sum(tile["share"] for tile in record["tiles"]) == pytest.approx(1)
    assert record["tiles"][0] == {
        "tile": 0,
        "name": "overview",
        "box": (0, 0, width, height),
        "share": pytest.approx(found.patches[0].sum()),
    }
    row, column = found.addresses.tile_cell[-1].tolist()
    assert record["tiles"][-1]["name"] == f"grid row {row}, column {column}"
    shares = [patch["share"] for patch in record["patches"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == found.patches.max()
    for patch in record["patches"]:
        left, top, right, bottom = patch["box"]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_given_answer(loaded, image, found):
    same = explain_answer(loaded, image, "How many shapes are there?", answer=found.answer)
    assert same.answer == found.answer
    assert same.patches == pytest.approx(found.patches, abs=1e-6)
    other = explain_answer(loaded, image, "How many shapes are there?", answer="A large red star, <|end|> he said")
    assert other.answer.startswith("A large red star")
    assert np.abs(other.patches - found.patches).max() > 1e-4


def test_single_layers(loaded, image, found):
    last = explain_answer(loaded, image, "How many shapes are there?", layer=-1, text_layer=0)
    same = explain_answer(loaded, image, "How many shapes are there?", layer=1, text_layer=-5)
    assert last.patches == pytest.approx(same.patches)
    assert np.abs(last.patches - found.patches).max() > 1e-4


def test_bad_requests(loaded, image):
    with pytest.raises(ValueError, match="layer is 2, but the model has 2 such layers: give -2 to 1"):
        explain_answer(loaded, image, "Hello?", layer=2)
    with pytest.raises(ValueError, match="text_layer is -6"):
        explain_answer(loaded, image, "Hello?", text_layer=-6)
    with pytest.raises(ValueError, match="The answer is empty"):
        explain_answer(loaded, image, "Hello?", answer=" ")


def test_roll_out_by_hand():
    """One chunk of two latents that look at three patches, two layers."""
    first = torch.tensor([[[0.5, 0.3, 0.0, 0.1, 0.1], [0.0, 0.0, 0.8, 0.2, 0.0]]])
    second = torch.tensor([[[0.0, 0.2, 0.0, 0.0, 0.8], [0.1, 0.1, 0.1, 0.7, 0.0]]])
    one = np.array([[0.5, 0.3, 0.0], [0.0, 0.0, 0.8]]) / 2
    two = np.array(
        [
            (one[0] + [0.0, 0.2, 0.0] + 0.8 * one[1]) / 2,
            (one[1] + [0.1, 0.1, 0.1] + 0.7 * one[0]) / 2,
        ]
    )
    expected = two / two.sum(1, keepdims=True)
    assert roll_out([first, second], 2)[0].numpy() == pytest.approx(expected, abs=1e-6)
    assert roll_out([first], 2)[0].numpy() == pytest.approx(one / one.sum(1, keepdims=True), abs=1e-6)


def test_chunk_without_visible_patches():
    blind = torch.tensor([[[0.0, 0.0, 1.0]]])
    assert roll_out([blind, blind], 1).tolist() == [[[0.0, 0.0]]]


def test_weigh_tokens_by_hand():
    attention = [torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]), torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.1, 0.8]])]
    places = torch.tensor([0, 2])
    assert weigh_tokens(attention, places).tolist() == pytest.approx([0.25, 0.45])
    assert weigh_tokens(attention, places, 1).tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize("sliding_window", [None, 9])
def test_attention_of_the_answer_equals_one_pass(sliding_window):
    """Reading the prompt into a cache first gives the rows of one eager pass, also under a sliding window."""
    torch.manual_seed(0)
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = XGenMMConfig(
        vision_config={**width, "image_size": 16, "patch_size": 4},
        resampler_config={"num_latents": 4, "depth": 2, "num_heads": 2, "head_dim": 8},
        text_config={**width, "num_key_value_heads": 2, "vocab_size": 63, "pad_token_id": 0},
        image_token_id=60,
        image_placeholder_token_id=61,
        end_of_chunk_token_id=62,
        anyres_grids=[[16, 32], [32, 16]],
    )
    config.text_config.sliding_window = sliding_window
    model = XGenMMForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    ids = torch.cat([torch.tensor([5, 6]), torch.full((12,), 60), torch.tensor([7, 8])])[None]
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.rand(3, 3, 16, 16),
        "image_sizes": torch.tensor([[20, 10]]),
        "image_num_tiles": torch.tensor([3]),
    }
    with torch.no_grad():
        rows, looked = read_attention(model, inputs, [9, 10, 11])
        inputs["input_ids"] = torch.cat([ids, torch.tensor([[9, 10, 11]])], dim=1)
        whole = model(**inputs, output_attentions=True, past_key_values=DynamicCache())
    assert len(looked) == 2
    assert looked[0].shape == (3, 4, 16 + 4)
    for row, layer in zip(rows, whole.attentions, strict=True):
        assert row.shape == (3, 18)
        torch.testing.assert_close(row, layer[0].double().mean(0)[15:18, :18], atol=1e-5, rtol=1e-4)


def test_text_queries_of_the_first_release_are_rolled_out():
    """Its prompt is queried too: latents look at text that looked at patches."""
    looked = [torch.rand(2, 3, 4 + 3).softmax(-1) for _ in range(2)]  # 2 latents and a word over 4 patches
    rolled = roll_out(looked, 2)
    assert rolled.shape == (2, 2, 4)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2, 2))
    torch.testing.assert_close(rolled, roll_out(looked, 3)[:, :2])
    blind = [looked[0].clone(), looked[1]]
    blind[0][:, 2, :4] = 0  # the word saw nothing
    assert (roll_out(blind, 2) - rolled).abs().max() > 1e-3


def test_overlay_glows_where_it_is_hot():
    image = Image.new("RGB", (40, 20), (90, 90, 90))
    heat = np.zeros((20, 40))
    heat[5:10, 30:36] = 1 / 30
    drawn = np.asarray(draw_overlay(image, heat)).sum(2)
    assert drawn.shape == (20, 40)
    assert drawn[7, 32] > 500 > 300 > drawn[15, 5]
    framed = draw_overlay(image, heat, image_token_addresses([(20, 40)], XGenMMConfig.from_pretrained(TINY_MODEL)))
    assert (np.asarray(framed) != np.asarray(draw_overlay(image, heat))).any()
    assert draw_overlay(image, np.zeros((20, 40))).size == (40, 20)


def test_colors_get_lighter():
    lightness = color_of(np.linspace(0, 1, 30)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()
