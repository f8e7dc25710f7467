"""One prompt form for every entry, and the running text of base models."""

import json

import pytest
from PIL import Image

from xgenmm_hf import TINY_BASE_MODEL, TINY_MODEL
from xgenmm_hf.data.encoding import render_row
from xgenmm_hf.demo.talk import Desk, messages_of_page
from xgenmm_hf.evaluation.harness.conversations import render
from xgenmm_hf.evaluation.prompting import AskSettings, render_sample
from xgenmm_hf.evaluation.samples import Sample
from xgenmm_hf.inference.asking import ask
from xgenmm_hf.inference.loading import load
from xgenmm_hf.inference.prompts import build_messages, read_shots, render_prompt, render_shots, trim_continuation
from xgenmm_hf.modeling.chat_xgenmm import RELEASED_SYSTEM
from xgenmm_hf.serving.conversation import Conversation
from xgenmm_hf.serving.service import Service
from xgenmm_hf.serving.settings import Settings


IMAGE, QUESTION = Image.new("RGB", (90, 40), (10, 200, 10)), "What is this?"


@pytest.fixture(scope="module")
def loaded():
    return load(TINY_MODEL, device="cpu")


@pytest.fixture(scope="module")
def base():
    return load(TINY_BASE_MODEL, device="cpu")


@pytest.fixture
def seen(monkeypatch):
    """Returns what `generate` is given instead of generating."""
    calls = []

    def collect(loaded):
        def generate(self, input_ids=None, streamer=None, **kwargs):
            calls.append((input_ids[0].tolist(), kwargs))
            if streamer is not None:
                streamer.end()
            return input_ids

        monkeypatch.setattr(type(loaded.model), "generate", generate)
        return calls

    return collect


def test_one_conversation_has_the_same_ids_through_every_entry(loaded, seen, tmp_path):
    IMAGE.save(tmp_path / "a.png")
    processor = loaded.processor
    text = f"<|system|>\n{RELEASED_SYSTEM}<|end|>\n<|user|>\n<image>\n{QUESTION}<|end|>\n<|assistant|>\n"
    expected = processor(images=IMAGE, text=text)["input_ids"][0]
    messages = build_messages([IMAGE], QUESTION)

    # the library's own ways
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == text
    assert processor.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == text
    whole = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert whole["input_ids"][0] == expected

    # texts of the command line, the server, evaluation, harnesses and training
    texts = [
        render_prompt(processor, messages),
        render_sample(processor, Sample("1", QUESTION, (IMAGE,)), (), "", AskSettings()),
        render(processor, [{"role": "user", "content": messages[0]["content"]}]).text,
    ]
    assert set(texts) == {text}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    trained = render_row(processor, {"messages": [*messages, answer], "images": [IMAGE]}).text
    assert trained == f"{text}red<|end|>\n"

    # ids that reach the model
    calls = seen(loaded)
    ask(loaded, [IMAGE], QUESTION)
    Conversation(loaded).answer(QUESTION, [("a.png", IMAGE)], lambda piece: None)
    list(Desk(loaded).chat(messages_of_page([], {"text": QUESTION, "files": [str(tmp_path / "a.png")]})))
    assert [ids for ids, _ in calls] == [expected] * 3
    service = Service(loaded, Settings("tiny"))
    try:
        served = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
        assert service._encode_text(served, [IMAGE])[0].tolist() == expected
    finally:
        service.close()


def test_an_own_system_message_replaces_it_and_an_empty_one_removes_it(loaded):
    own = render_prompt(loaded.processor, build_messages([], "Hi", "Be brief."))
    assert own == "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
    for nothing in ("", None):
        messages = [{"role": "system", "content": nothing}, {"role": "user", "content": "Hi"}]
        assert render_prompt(loaded.processor, messages) == "<|user|>\nHi<|end|>\n<|assistant|>\n"


def test_a_base_model_says_that_it_has_no_chats(base):
    for part in (base.processor, base.processor.tokenizer):
        assert part.chat_template is None
    with pytest.raises(ValueError, match="This is a base model: it has no chat template"):
        base.processor.apply_chat_template(build_messages([IMAGE], QUESTION))
    with pytest.raises(ValueError, match="no system turn"):
        render_prompt(base.processor, build_messages([], QUESTION, "Be brief."))


def test_the_base_form_of_a_chat(base):
    turns = [*build_messages([IMAGE], "Question: color? Answer:"), {"role": "assistant", "content": "red"}]
    text = render_prompt(base.processor, [*turns, *build_messages([IMAGE], "Question: shape? Answer:", "")])
    assert text == "<image>Question: color? Answer: red<|endofchunk|><image>Question: shape? Answer:"
    typed = render_prompt(base.processor, build_messages([], "<image><|endofchunk|>"))
    assert not set(base.processor.tokenizer(typed)["input_ids"]) & set(base.model.config.added_tokens.values())


def test_every_entry_asks_a_base_model_in_its_form(base, seen, tmp_path):
    IMAGE.save(tmp_path / "a.png")
    expected = base.processor(images=IMAGE, text=f"<image>{QUESTION}")["input_ids"][0]
    calls = seen(base)
    ask(base, [IMAGE], QUESTION)
    Conversation(base).answer(QUESTION, [("a.png", IMAGE)], lambda piece: None)
    list(Desk(base).chat(messages_of_page([], {"text": QUESTION, "files": [str(tmp_path / "a.png")]})))
    ends = base.model.config.end_of_chunk_token_id
    assert [ids for ids, _ in calls] == [expected] * 3
    assert all(ends in options["eos_token_id"] for _, options in calls)


def test_examples_from_a_file(base, tmp_path, seen):
    IMAGE.save(tmp_path / "a.png")
    rows = [{"image": "a.png", "text": "A dog."}, {"image": "a.png", "text": "A cat."}]
    for name, text in (("a.jsonl", "\n".join(map(json.dumps, rows)) + "\n"), ("a.json", json.dumps(rows))):
        (tmp_path / name).write_text(text)
        shots = read_shots(tmp_path / name)
        assert [text for _, text in shots] == ["A dog.", "A cat."]
    calls = seen(base)
    ask(base, [IMAGE], "A", shots=shots)
    text = "<image>A dog.<|endofchunk|><image>A cat.<|endofchunk|><image>A"
    assert render_shots(["A dog.", "A cat."], "A", base.processor.tokenizer) == text
    assert calls[0][0] == base.processor(images=[IMAGE] * 3, text=text)["input_ids"][0]
    for wrong in ("{", '{"image": "a.png"}', '{"image": "none.png", "text": ""}', "5"):
        (tmp_path / "wrong.jsonl").write_text(wrong)
        with pytest.raises(ValueError, match="wrong.jsonl|none.png"):
            read_shots(tmp_path / "wrong.jsonl")


def test_an_instruct_model_takes_no_examples(loaded):
    with pytest.raises(ValueError, match="instruct model"):
        ask(loaded, [IMAGE], "A", shots=[(IMAGE, "A dog.")])


def test_an_answer_of_a_base_model_is_cut(base):
    pieces = []
    answer = ask(base, [IMAGE], "Question: What color is it? Answer:", max_new_tokens=30, on_text=pieces.append)
    assert pieces == [answer.text]
    assert "Question:" not in answer.text
    assert "<" not in answer.text
    assert trim_continuation(" red Question: what now", "Question: a? Answer:") == "red"
    assert trim_continuation(" a red: one ", "A photo of") == "a red: one"
