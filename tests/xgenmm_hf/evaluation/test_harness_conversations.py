"""What the harness adapters share, on the embedded model; needs no harness."""

import threading

import pytest
import torch
from chat_answers import answer_chats
from embedded_model.world.render import render as draw
from embedded_model.world.scene import HELD_OUT, make_scene

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.evaluation.harness.conversations import (
    Answerer,
    Decoding,
    Gatherer,
    cut_at,
    in_batches,
    place_images,
    render,
)
from xgenmm_hf.inference.batches import rate_answers
from xgenmm_hf.inference.loading import load
from xgenmm_hf.modeling.chat_xgenmm import RELEASED_SYSTEM


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


def rate(loaded, conversations, answers):
    images = [image for conversation in conversations for image in conversation.images]
    return rate_answers(loaded, [conversation.text for conversation in conversations], images, answers)


QUESTIONS = ["How many shapes are there?", "What is in the image?", "Is there a red star?"]


def test_answers_are_those_of_our_own_evaluation(loaded, images):
    prompts = [(text, [image]) for text, image in zip(QUESTIONS, images, strict=True)]
    conversations = [converse(loaded, image, text) for text, [image] in prompts]
    expected = answer_chats(loaded, prompts, 24)
    assert Answerer(loaded).answer(conversations, Decoding(24)) == expected
    assert [Answerer(loaded).answer([each], Decoding(24))[0] for each in conversations] == expected
    assert all(expected)


def test_several_images_and_none(loaded, images):
    conversations = [
        converse(loaded, "First", images[0], "then", images[1], "?"),
        converse(loaded, "Hello?", system=""),
    ]
    assert conversations[0].text.count("<image>\n") == 2
    assert conversations[1].text == "<|user|>\nHello?<|end|>\n<|assistant|>\n"
    assert len(Answerer(loaded).answer(conversations, Decoding(3))) == 2


def test_control_tokens_of_a_task_stay_text(loaded, images):
    conversation = converse(loaded, images[0], "What does <image> or <|end|> mean?")
    ids = loaded.processor(images=conversation.images, text=conversation.text)["input_ids"][0]
    ends = loaded.processor.tokenizer.convert_tokens_to_ids("<|end|>")
    assert ids.count(ends) == 2


def test_images_end_as_asked(loaded, images):
    text = render(loaded.processor, user_turn(images[0], "Hello?"), "", image_end=" ").text
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
    ratings = rate(loaded, conversations, texts)
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
    answers = Answerer(loaded).answer(conversations, Decoding(8))
    assert all(greedy for _, greedy in rate(loaded, conversations, answers))
    assert not any(greedy for _, greedy in rate(loaded, conversations, ["purple"] * 3))
    with pytest.raises(ValueError, match="An answer to rate is empty"):
        rate(loaded, conversations, ["yes", " ", "no"])


def test_decoding_options():
    def options(**given):
        return dict(Decoding.of(given, 5).options)

    assert options(temperature=0, top_p=0.5, do_sample=True) == {}
    assert options(temperature=0.7, top_p=0.5, top_k=9) == {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 9,
        "top_p": 0.5,
    }
    assert options(temperature=0.7, do_sample=False, repetition_penalty=1.2, num_beams=3) == {
        "num_beams": 3,
        "repetition_penalty": 1.2,
    }
    found = Decoding.of({"max_gen_toks": 7, "stop_sequences": ["\n\n", "END"], "seed": 3, "image_aspect_ratio": 1}, 5)
    assert (found.max_new_tokens, found.until, found.seed, found.options) == (7, ("END",), 3, ())
    assert Decoding.of({}, 5).max_new_tokens == 5
    with pytest.raises(ValueError, match="'best_of' .* is not supported by this model"):
        Decoding.of({"best_of": 3}, 5)
    assert cut_at("yes. no", (".", "")) == "yes"


def test_generation_options_reach_the_model(loaded, images, monkeypatch):
    given = []
    generate = loaded.model.generate
    monkeypatch.setattr(loaded.model, "generate", lambda **options: given.append(options) or generate(**options))
    decoding = Decoding.of({"temperature": 0.5, "top_k": 3, "repetition_penalty": 1.5, "seed": 1}, 4)
    conversation = converse(loaded, images[0], "What is this?")
    first, again = (Answerer(loaded).answer([conversation], decoding) for _ in range(2))
    assert first == again
    assert (given[0]["top_k"], given[0]["repetition_penalty"], given[0]["do_sample"]) == (3, 1.5, True)


def test_images_go_where_they_are_marked():
    first, second = {"type": "image", "image": "a"}, {"type": "image", "image": "b"}

    def text(value):
        return {"type": "text", "text": value}

    assert place_images([first, second, text("Which?")]) == [first, second, text("Which?")]
    assert place_images([first, second, text("One <image>\nor <image> two")]) == [
        text("One "),
        first,
        text("or "),
        second,
        text(" two"),
    ]
    assert place_images([text("<image>")]) == [text("<image>")]
    assert place_images([first, second, text("<image> Which?")]) == [first, second, text(" Which?")]


@pytest.mark.parametrize("overlong", ["skip", "truncate"])
def test_prompts_over_the_context_are_counted_or_cut(loaded, images, overlong):
    answerer = Answerer(loaded, RELEASED_SYSTEM, overlong=overlong)
    long = answerer.converse(user_turn("word " * 3000 + "What is this?", images[0]), 8)
    short = answerer.converse(user_turn("What is this?", images[0]), 8)
    told, answer = answerer.answer([long, short], Decoding(8))
    assert answer
    if overlong == "skip":
        assert (told, answerer.skipped, long.fits) == ("", 1, False)
    else:
        assert told
        assert answerer.skipped == 0
        assert "What is this?<image>" in long.text
        inputs = loaded.processor(images=long.images, text=long.text)
        assert 2000 < len(inputs["input_ids"][0]) + 8 <= loaded.model.config.text_config.max_position_embeddings
    with pytest.raises(ValueError, match="overlong is 'drop'"):
        Answerer(loaded, overlong="drop")


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
