"""A chat goes on on its cache: the answer is the one computed afresh, whichever images are new."""

import pytest
import torch

from xgenmm_hf.modeling.compat_xgenmm import CACHE_NAME


OPTIONS = {
    "do_sample": False,
    "min_new_tokens": 5,
    "max_new_tokens": 5,
    "pad_token_id": 0,
    "suppress_tokens": [100, 101],
}
TOKENS = 20  # five tiles of four latents


def image(seed: int, size: tuple[int, int] = (30, 30)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.rand(5, 3, 16, 16, generator=generator) * 2 - 1,
        "image_sizes": torch.tensor([size]),
        "image_num_tiles": torch.tensor([5]),
    }


def joined(*images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([one[name] for one in images]) for name in images[0]}


def turn(start: int, with_image: bool) -> torch.Tensor:
    shown = torch.full((TOKENS if with_image else 0,), 100)
    return torch.cat([torch.arange(start, start + 4), shown, torch.arange(start + 4, start + 9)])[None]


@pytest.fixture
def model(make_model):
    """A model whose answers depend on the images."""
    model = make_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def first_turn(model, images):
    ids = turn(10, True)
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **images, **OPTIONS, return_dict_in_generate=True
    )


def answer(model, ids: torch.Tensor, **inputs) -> list[int]:
    output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs, **OPTIONS)
    return output[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("new_image", [False, True])
@pytest.mark.parametrize("name", [CACHE_NAME, "past_key_values"])
def test_second_turn_equals_the_answer_computed_afresh(model, new_image, name):
    first = first_turn(model, image(1))
    ids = torch.cat([first.sequences, turn(40, new_image)], dim=1)
    images = joined(image(1), image(2, (60, 20))) if new_image else image(1)
    if new_image:
        images["pixel_values"], images["image_num_tiles"] = images["pixel_values"][:8], torch.tensor([5, 3])
        ids = torch.cat([first.sequences, turn(40, True)[:, [0, 1, 2, 3, *range(12, 29)]]], dim=1)
    afresh = answer(model, ids, **images)
    seen = []
    hook = model.vision_tower.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert answer(model, ids, **images, **{name: first[CACHE_NAME]}) == afresh
    hook.remove()
    assert seen == ([3] if new_image else [])  # an image in the cache is not read again
    if new_image:
        other = {**images, "pixel_values": torch.cat([images["pixel_values"][:5], -images["pixel_values"][5:]])}
        assert answer(model, ids, **other) != afresh, "the answer does not depend on the new image"


def test_the_new_image_may_be_given_alone(model):
    first = first_turn(model, image(1))
    ids = torch.cat([first.sequences, turn(40, True)], dim=1)
    afresh = answer(model, ids, **joined(image(1), image(2)))
    assert answer(model, ids, **image(2), **{CACHE_NAME: first[CACHE_NAME]}) == afresh


def test_batches_drop_the_cached_images_of_each_row(model):
    ids = turn(10, True).repeat(2, 1)
    first = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **joined(image(1), image(2)), **OPTIONS,
        return_dict_in_generate=True,
    )  # fmt: skip
    ids = torch.cat([first.sequences, turn(40, True).repeat(2, 1)], dim=1)
    images, mask = joined(image(1), image(3), image(2), image(4)), torch.ones_like(ids)
    afresh = model.generate(input_ids=ids, attention_mask=mask, **images, **OPTIONS)
    going_on = {CACHE_NAME: first[CACHE_NAME]}
    assert torch.equal(model.generate(input_ids=ids, attention_mask=mask, **images, **OPTIONS, **going_on), afresh)


def test_wrong_numbers_of_images_are_told(model):
    first = first_turn(model, image(1))
    ids = torch.cat([first.sequences, turn(40, True)], dim=1)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        answer(model, ids, **joined(image(1), image(2), image(3)), **{CACHE_NAME: first[CACHE_NAME]})


def test_a_cache_that_ends_inside_an_image_is_told(model):
    first = first_turn(model, image(1))
    cache = first[CACHE_NAME]
    cache.crop(10 - cache.get_seq_length())
    with pytest.raises(ValueError, match="ends inside an image"):
        answer(model, first.sequences, **image(1), **{CACHE_NAME: cache})
