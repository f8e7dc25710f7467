"""`xgenmm chat` with lines typed in."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import chat as chat_module
from xgenmm_hf.cli.app import app
from xgenmm_hf.cli.chat import Session
from xgenmm_hf.inference.asking import ask
from xgenmm_hf.inference.feature_cache import FeatureCache
from xgenmm_hf.inference.loading import load
from xgenmm_hf.serving.conversation import Conversation


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "an image.png"
    Image.new("RGB", (100, 60), (200, 10, 10)).save(path)
    return str(path)


def chat(*lines: str, arguments: tuple[str, ...] = ()) -> str:
    """Returns what a chat prints."""
    result = CliRunner().invoke(app, ["chat", "--max-new-tokens", "6", *arguments], input="\n".join([*lines, ""]))
    assert result.exit_code == 0, result.output
    return result.output


def saved(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["messages"]


def test_turns_images_and_saving(image, tmp_path):
    file = tmp_path / "chat.json"
    output = chat("What is this?", "And now?", f"/image '{image}'", "And this?", f"/save {file}", arguments=(image,))
    messages = saved(file)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3
    assert [message.get("images") for message in messages[::2]] == [[image], None, [image]]
    for message in messages[1::2]:
        assert message["content"] in output
    with Image.open(image) as opened:
        first = ask(load(TINY_MODEL), [opened.convert("RGB")], "What is this?", max_new_tokens=6)
    assert messages[1]["content"] == first.text


def test_an_image_is_read_once_for_all_turns(image, monkeypatch):
    loaded, reads = load(TINY_MODEL), []
    encode = loaded.model.get_image_features
    monkeypatch.setattr(loaded.model, "get_image_features", lambda **inputs: reads.append(1) or encode(**inputs))
    with Image.open(image) as opened:
        shown = [(image, opened.convert("RGB"))]
    answers = {}
    for max_bytes, expected in ((2**20, 1), (0, 2)):
        conversation = Conversation(loaded, max_new_tokens=6, max_bytes=max_bytes)
        reads.clear()
        answers[max_bytes] = [
            conversation.answer("What is this?", shown, print),
            conversation.answer("What color is it?", [], print),
        ]
        assert len(reads) == expected
    assert answers[0] == answers[2**20]


def test_reset_keeps_the_system_turn_only(tmp_path):
    file = tmp_path / "chat.json"
    chat("Hello", "/reset", f"/save {file}", arguments=("--system", "Be brief."))
    assert saved(file) == [{"role": "system", "content": "Be brief."}]


def test_what_is_wrong_is_told_and_the_chat_goes_on(image, tmp_path):
    (tmp_path / "file").write_text("no folder")
    output = chat(
        "/nope", "/image", f"/image {tmp_path}/none.png", "/image 'open", "/save", f"/save {tmp_path}/file/where",
        "word " * 9000, "/help", "", "Hello", f"/save {tmp_path}/chat.json", "/quit", "never said",
    )  # fmt: skip
    assert output.count("error: ") == 7
    assert "no command /nope" in output
    assert "context" in output
    assert "/image FILE..." in output
    assert len(saved(tmp_path / "chat.json")) == 2


def test_a_wrong_image_or_model_ends_it_before_it_begins(tmp_path):
    for arguments in ([f"{tmp_path}/none.png"], ["--model", "nowhere"]):
        result = CliRunner().invoke(app, ["chat", *arguments])
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")


def test_images_on_stdin_and_addresses_are_one_sentence(image):
    for argument, said in (("-", "reads what you say from stdin"), ("https://example.com/a.png", "--allow-remote")):
        result = CliRunner().invoke(app, ["chat", argument])
        assert result.exit_code == 1 and said in result.stderr
        assert said in chat(f"/image {argument}")


def test_options_of_the_answer(image, tmp_path):
    def said(*arguments: str) -> list[str]:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        chat("What is this?", f"/save {file}", arguments=(image, *arguments))
        return [message["content"] for message in saved(file) if message["role"] == "assistant"]

    plain = said()
    drawn = ("--temperature", "5", "--top-p", "0.99", "--seed")
    assert said(*drawn, "1") == said(*drawn, "1")
    assert len({tuple(said(*drawn, str(seed))) for seed in range(4)}) > 1
    mark = plain[0].split()[-1]
    assert said("--stop", mark) == [plain[0].split(mark)[0].strip()]


def test_the_image_mode(image, monkeypatch):
    modes = []
    encode = FeatureCache.encode
    monkeypatch.setattr(FeatureCache, "encode", lambda cache, *args: modes.append(args[1]) or encode(cache, *args))
    chat("What is this?", arguments=(image, "--image-mode", "none"))
    assert modes == ["none"]


def test_leaving_takes_two_ctrl_c_within_two_seconds(monkeypatch):
    session = Session(Conversation(load(TINY_MODEL)), Console(quiet=True))
    now, asked = iter((0.0, 0.0, 2.5, 2.5, 4.0, 4.0)), []

    def interrupt() -> str:
        asked.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_read_message", interrupt)
    monkeypatch.setattr(chat_module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    session.run()
    assert len(asked) == 3


def test_an_answer_that_is_cut_off_is_kept(capsys):
    loaded = load(TINY_MODEL)
    conversation = Conversation(loaded)
    pieces = []

    def interrupt(piece: str) -> None:
        pieces.append(piece)
        raise KeyboardInterrupt

    answer = conversation.answer("Describe this image.", [], interrupt)
    assert answer == pieces[0].strip()
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"]


def test_a_question_cut_off_before_its_answer_can_be_asked_again(image, tmp_path, monkeypatch):
    encode, calls = FeatureCache.encode, []

    def interrupted_at_first(cache, *args):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return encode(cache, *args)

    monkeypatch.setattr(FeatureCache, "encode", interrupted_at_first)
    file = tmp_path / "chat.json"
    output = chat("What is this?", "What color is it?", f"/save {file}", arguments=(image,))
    assert "the question is not kept" in output
    messages = saved(file)
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0] == {"role": "user", "content": "What color is it?", "images": [image]}


@pytest.mark.filterwarnings("ignore:Image.Image.getdata:DeprecationWarning")
def test_images_are_drawn_on_a_terminal_and_nothing_commands_it():
    pytest.importorskip("textual_image")
    import io

    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    session = Session(Conversation(load(TINY_MODEL)), console)
    session.show([("red.png", Image.new("RGB", (60, 40), "red"))])
    drawn = console.file.getvalue()
    assert drawn.index("red.png") >= 40
    session._write("a\x1b[2Jb\x07\n")
    assert console.file.getvalue()[len(drawn) :] == "a[2Jb\n"
