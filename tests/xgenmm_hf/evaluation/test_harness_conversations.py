"""What the harness adapters share, on the embedded model; needs no harness."""

import threading

import pytest
import torch
from embedded_model.world.render import render as draw
from embedded_model.world.scene import HELD_OUT, make_scene

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.answering import Prompt, answer_prompts
from xgenmm_hf.evaluation.harness.batching import Gatherer
from xgenmm_hf.evaluation.harness.conversations import (
    Decoding,
    cut_at,
    generate_answers,
    in_batches,
    rate_continuations,
    render,
)
from xgenmm_hf.inference.asking import RELEASED_SYSTEM
from xgenmm_hf.inference.loading import load


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL)


@pytest.fixture(scope="module")
def images():
    layouts = ("square", "wide", "tall")
    return [draw(make_scene(seed, HELD_OUT, layout=layout), 128) for seed, layout in enumerate(layouts)]


def user_turn(*parts):
    items = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return [{"role": "user", "content": items}]


def converse(loaded, *parts, system=RELEASED_SYSTEM):
    return render(loaded.processor, user_turn(*parts), system)


QUESTIONS = ["How many shapes are there?", "What is in the image?", "Is there a red star?"]


def test_answers_are_those_of_our_own_evaluation(loaded, images):
    prompts = [Prompt(text, [image]) for text, image in zip(QUESTIONS, images, strict=True)]
    conversations = [converse(loaded, prompt.images[0], prompt.text) for prompt in prompts]
    expected = answer_prompts(loaded, prompts, 24)
    assert generate_answers(loaded, conversations, Decoding(24)) == expected
    assert [generate_answers(loaded, [each], Decoding(24))[0] for each in conversations] == expected
    assert all(expected)


def test_several_images_and_none(loaded, images):
    conversations = [
        converse(loaded, "First", images[0], "then", images[1], "?"),
        converse(loaded, "Hello?", system=None),
    ]
    assert conversations[0].text.count("<image>\n") == 2
    assert conversations[1].text == "<|user|>\nHello?<|end|>\n<|assistant|>\n"
    assert len(generate_answers(loaded, conversations, Decoding(3))) == 2


def test_control_tokens_of_a_task_stay_text(loaded, images):
    conversation = converse(loaded, images[0], "What does <image> or <|end|> mean?")
    ids = loaded.processor(images=conversation.images, text=conversation.text)["input_ids"][0]
    ends = loaded.processor.tokenizer.convert_tokens_to_ids("<|end|>")
    assert ids.count(ends) == 2


def test_images_end_as_asked(loaded, images):
    text = render(loaded.processor, user_turn(images[0], "Hello?"), None, image_end=" ").text
    assert text == "<|user|>\n<image> Hello?<|end|>\n<|assistant|>\n"


def test_a_tasks_own_system_turn_wins(loaded):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    text = render(loaded.processor, messages, RELEASED_SYSTEM).text
    assert text.startswith("<|system|>\nBe brief.<|end|>\n<|user|>")
    assert messages[0]["content"] == "Be brief."


def test_videos_are_refused(loaded, tmp_path):
    with pytest.raises(ValueError, match="item of type 'video'"):
        render(loaded.processor, [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}])
    with pytest.raises(ValueError, match="no image at"):
        render(loaded.processor, [{"role": "user", "content": [{"type": "image", "url": str(tmp_path / "no.png")}]}])


def test_paths_are_opened(loaded, images, tmp_path):
    images[0].save(tmp_path / "a.png")
    items = [{"type": "image", "url": str(tmp_path / "a.png")}]
    opened = render(loaded.processor, [{"role": "user", "content": items}]).images[0]
    assert opened.tobytes() == images[0].tobytes()


def test_ratings_are_the_models_losses(loaded, images):
    """One batch of unequal answers gives what the model's own loss gives one by one."""
    texts = ["yes", "A large red circle at the top left.", "no"]
    conversations = [converse(loaded, image, "Is there a red star?") for image in images]
    ratings = rate_continuations(loaded, conversations, texts)
    tokenizer = loaded.processor.tokenizer
    for conversation, text, (loss, _) in zip(conversations, texts, ratings, strict=True):
        inputs = loaded.processor(images=conversation.images, text=conversation.text + text, return_tensors="pt")
        length = len(tokenizer(conversation.text + text)["input_ids"]) - len(tokenizer(conversation.text)["input_ids"])
        labels = inputs["input_ids"].clone()
        labels[:, :-length] = -100
        with torch.inference_mode():
            expected = loaded.model(**inputs, labels=labels).loss
        assert loss == pytest.approx(float(expected), rel=1e-3, abs=1e-5)


def test_greedy_answer_is_recognised(loaded, images):
    conversations = [converse(loaded, image, "How many shapes are there?") for image in images]
    answers = generate_answers(loaded, conversations, Decoding(8))
    assert all(greedy for _, greedy in rate_continuations(loaded, conversations, answers))
    assert not any(greedy for _, greedy in rate_continuations(loaded, conversations, ["purple"] * 3))
    with pytest.raises(ValueError, match="An answer to rate is empty"):
        rate_continuations(loaded, conversations, ["yes", " ", "no"])


def test_decoding_options():
    assert Decoding(5, top_p=0.5).options() == {"max_new_tokens": 5, "num_beams": 1, "do_sample": False}
    assert Decoding(5, temperature=0.7, top_p=0.5).options()["top_p"] == 0.5
    assert cut_at("yes. no", (".", "")) == "yes"


def test_batches_share_settings_and_begin_with_the_longest():
    items = [("a", 1), ("bbb", 2), ("cc", 1), ("dddd", 1), ("e", 2)]
    batches = list(in_batches(items, 2, lambda item: len(item[0]), lambda item: item[1]))
    assert batches == [[3, 2], [0], [1, 4]]


def test_gatherer_answers_many_threads_together():
    sizes = []

    def double(items):
        sizes.append(len(items))
        return [2 * item for item in items]

    gather = Gatherer(double, batch_size=4, patience=5)
    answers = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: gather(n)})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: 2 * n for n in range(8)}
    assert sizes == [4, 4]


def test_gatherer_survives_an_error():
    def fail_on_zero(items):
        return [1 // item for item in items]

    gather = Gatherer(fail_on_zero, batch_size=3, patience=0)
    with pytest.raises(ZeroDivisionError):
        gather(0)
    assert gather(1) == 1
