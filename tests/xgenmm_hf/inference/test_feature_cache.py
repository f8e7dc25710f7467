"""The cache of images' tokens: the same answers, the tower once per image, bytes within the limit, nothing stale."""

import numpy as np
import pytest
import torch
from PIL import Image

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.inference.feature_cache import FeatureCache
from xgenmm_hf.inference.loading import load


QUESTIONS = ("What is it?", "Which color is the disc on the left?", "How many shapes are there?")


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL, dtype="float32", device="cpu")


@pytest.fixture
def cache(loaded):
    return FeatureCache(loaded.model, loaded.processor)


@pytest.fixture
def tower_calls(loaded):
    calls = []
    hook = loaded.model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    hook.remove()


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((90, 120), (200, 60))]


def chat(processor, question: str, count: int = 1) -> str:
    content = [*[{"type": "image"}] * count, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def answers(model, inputs, **options) -> list[list[int]]:
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    return output[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("num_beams", [1, 2])
def test_answers_are_those_without_a_cache(loaded, cache, images, tower_calls, num_beams):
    texts = [chat(loaded.processor, question) for question in QUESTIONS]
    plain, cached = [], []
    for text in texts:
        inputs = loaded.processor(text=text, images=images[:1], return_tensors="pt")
        plain += answers(loaded.model, inputs, num_beams=num_beams)
    assert len(tower_calls) == len(texts)
    del tower_calls[:]
    for text in texts:
        cached += answers(loaded.model, cache.prepare(text, images[:1]), num_beams=num_beams)
    assert cached == plain
    assert len(tower_calls) == 1 and (cache.hits, cache.misses) == (len(texts) - 1, 1)


def test_inputs_are_the_processors(loaded, cache, images):
    texts = [chat(loaded.processor, "What?", 2), chat(loaded.processor, "How many shapes?"), "no image"]
    shown = [*images, images[1]]
    expected = loaded.processor(text=texts, images=shown, padding=True, padding_side="left", return_tensors="pt")
    inputs = cache.prepare(texts, shown)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["attention_mask"], expected["attention_mask"])
    with torch.no_grad():
        reference = loaded.model(**expected).logits
        logits = loaded.model(**inputs).logits
    seen = expected["attention_mask"].bool()
    torch.testing.assert_close(logits[seen], reference[seen])
    assert (cache.hits, cache.misses) == (1, 2)


def test_without_images(cache):
    assert set(cache.prepare(["one", "two words"])) == {"input_ids", "attention_mask"}


def test_modes_are_kept_apart(cache, images):
    many, one = (cache.encode(images[:1], mode)[0] for mode in ("anyres", "none"))
    assert len(many) > len(one) and cache.misses == 2


def test_the_longest_unused_go_first(loaded, images):
    size = FeatureCache(loaded.model, loaded.processor).encode(images[:1])[0].nbytes
    others = [image.rotate(180) for image in images[:1] * 2]
    others[1] = others[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cache = FeatureCache(loaded.model, loaded.processor, max_bytes=2 * size)
    for image in (images[0], others[0], images[0], others[1]):
        cache.encode([image])
    assert len(cache) == 2
    cache.encode([images[0]])
    assert cache.misses == 3
    cache.encode([others[0]])
    assert cache.misses == 4


def test_nothing_is_kept_in_no_room(loaded, images):
    cache = FeatureCache(loaded.model, loaded.processor, max_bytes=0)
    for _ in range(2):
        cache.encode(images)
    assert cache.misses == 4 and len(cache) == 0
    with pytest.raises(ValueError, match="max_bytes is -1"):
        FeatureCache(loaded.model, loaded.processor, max_bytes=-1)


def test_changed_weights_are_noticed(images):
    loaded = load(TINY_MODEL, dtype="float32", device="cpu")
    cache = FeatureCache(loaded.model, loaded.processor)
    before = cache.encode(images[:1])[0]
    with torch.no_grad():
        loaded.model.model.resampler.latents.mul_(2)
    assert not torch.equal(cache.encode(images[:1])[0], before)
    loaded.model.to(torch.bfloat16)
    assert cache.encode(images[:1])[0].dtype == torch.bfloat16
    assert cache.misses == 3


def test_images_and_prompts_must_fit(cache, images):
    with pytest.raises(ValueError, match="write one <image> for each image"):
        cache.prepare("no image", images)
