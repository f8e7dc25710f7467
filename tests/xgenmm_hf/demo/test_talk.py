"""Chats and few-shot examples of the page, as the model gets them."""

import threading

import pytest
from PIL import Image

from xgenmm_hf import TINY_BASE_MODEL, load
from xgenmm_hf.demo.talk import Desk, messages_of_page
from xgenmm_hf.inference.asking import ask, sampling_options
from xgenmm_hf.inference.prompts import render_shots


@pytest.fixture
def images(tmp_path) -> list[str]:
    paths = [tmp_path / f"{color}.png" for color in ("red", "green")]
    for path in paths:
        Image.new("RGB", (90, 60), path.stem).save(path)
    return [str(path) for path in paths]


@pytest.fixture
def desk(loaded) -> Desk:
    return Desk(loaded)


def file_item(path: str) -> dict:
    return {"type": "file", "file": {"path": path}}


def test_what_belongs_to_one_turn_is_put_together(images):
    history = [
        {"role": "user", "content": [file_item(images[0])]},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "red"},
    ]
    messages = messages_of_page(history, {"text": "And this?", "files": [images[1]]}, "Be short.")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert [[item["type"] for item in message["content"]] for message in messages] == [
        ["text"],
        ["image", "text"],
        ["text"],
        ["image", "text"],
    ]
    assert messages[1]["content"][0]["image"].getpixel((0, 0)) == (255, 0, 0)
    assert messages[3]["content"][1]["text"] == "And this?"


def test_nothing_and_no_image_are_said_plainly(tmp_path):
    with pytest.raises(ValueError, match="Nothing was sent"):
        messages_of_page([], {"text": "  ", "files": []})
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(ValueError, match=r"^The image notes\.png is not an image"):
        messages_of_page([], {"text": "?", "files": [str(tmp_path / "notes.png")]})


def test_the_last_piece_is_the_answer_of_ask(desk, images):
    pieces = list(desk.chat(messages_of_page([], {"text": "What color?", "files": images[:1]}), max_new_tokens=12))
    expected = ask(desk.loaded, [Image.open(images[0])], "What color?", max_new_tokens=12)
    last = pieces[-1]
    assert last.text.strip() == expected.text
    assert all(later.text.startswith(earlier.text) for earlier, later in zip(pieces, pieces[1:], strict=False))
    counts = (last.prompt_tokens, last.image_tokens, last.new_tokens)
    assert counts == (expected.prompt_tokens, expected.image_tokens, expected.new_tokens)
    assert last.cost.startswith(
        f"{expected.prompt_tokens} tokens in the prompt, {expected.image_tokens} of them images"
    )
    assert "tokens per second" in last.cost and last.seconds > 0


@pytest.mark.parametrize(("seconds", "every"), [(1e9, False), (0, True)])
def test_a_page_is_not_redrawn_for_every_token(desk, images, monkeypatch, seconds, every):
    monkeypatch.setattr("xgenmm_hf.demo.talk.REDRAW_SECONDS", seconds)
    messages = messages_of_page([], {"text": "Describe this image.", "files": images[:1]})
    pieces = list(desk.chat(messages, max_new_tokens=12))
    assert len(pieces) > 4 if every else len(pieces) == 2
    assert pieces[-1].text == ask(desk.loaded, [Image.open(images[0])], "Describe this image.", max_new_tokens=12).text


def test_the_page_says_what_a_model_is_and_knows(desk):
    assert "million parameters, tuned to chat" in desk.facts
    assert "16 tokens per tile" in desk.facts and "context of 2048 tokens" in desk.facts
    assert "no photographs" in desk.facts and not desk.is_base
    base = Desk(load(TINY_BASE_MODEL, device="cpu"))
    assert base.is_base and "a base model" in base.facts


def test_leaving_ends_the_generation_and_frees_the_model(desk, images):
    messages = messages_of_page([], {"text": "Describe this image.", "files": images[:1]})
    before = threading.active_count()
    answer = desk.chat(messages, max_new_tokens=200)
    next(answer)
    answer.close()
    assert threading.active_count() == before
    assert list(desk.chat(messages, max_new_tokens=2))


def test_too_long_a_chat_is_refused_and_the_model_stays_free(desk):
    messages = messages_of_page([], {"text": "circle " * 3000})
    for _ in range(2):
        with pytest.raises(ValueError, match="context holds"):
            list(desk.chat(messages))


def test_a_failure_of_generate_reaches_the_listener(desk, images):
    messages = messages_of_page([], {"text": "What?", "files": images[:1]})
    with pytest.raises(ValueError, match="temperature"):
        list(desk._continue(prepared(desk, messages), max_new_tokens=2, do_sample=True, temperature=-1.0))


def prepared(desk, messages):
    return desk.loaded.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def test_temperature():
    assert sampling_options(0) == {"do_sample": False, "num_beams": 1}
    assert sampling_options(0.5)["temperature"] == 0.5


def test_shots_are_in_the_base_form_and_typed_tokens_stay_text(desk, images):
    tokenizer = desk.loaded.processor.tokenizer
    assert render_shots(["A dog.", "A cat."], "A", tokenizer) == (
        "<image>A dog.<|endofchunk|><image>A cat.<|endofchunk|><image>A"
    )
    assert render_shots(["<image>"], "<|endofchunk|>", tokenizer).count("<image>") == 2
    pieces = list(desk.continue_shots([(images[0], "A red image.")], images[1], "A", max_new_tokens=4))
    assert pieces and "<" not in pieces[-1]


def test_turns_that_failed_are_no_part_of_the_chat():
    from xgenmm_hf.demo.talk import ERROR_MARK, without_errors

    history = [
        {"role": "user", "content": [{"type": "text", "text": "first"}]},
        {"role": "assistant", "content": "an answer"},
        {"role": "user", "content": "an image that cannot be read"},
        {"role": "user", "content": "and a question"},
        {"role": "assistant", "content": [{"type": "text", "text": f"{ERROR_MARK} that is no image"}]},
    ]
    assert without_errors(history) == history[:2]
