"""`xgenmm run transformers serve`, asked by OpenAI's client."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import openai
import pytest
from PIL import Image
from serving import data_url, user_message

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.modeling.compat_xgenmm import IS_V5


IMAGES = Path(TINY_MODEL).parent / "images"
STARTING_SECONDS = 600


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """A client of a server that this starts and stops."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "xgenmm_hf.cli.run", "transformers", "serve", "--host", "127.0.0.1"]
    given_up = time.monotonic() + STARTING_SECONDS
    asking = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)
    with forked.Program([*command, "--device", "cpu", "--port", port]) as server:
        while True:
            assert server.poll() is None and time.monotonic() < given_up, server.stderr[-3000:]
            try:
                asking.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(0.2)
        yield asking


def streamed(client: openai.OpenAI, question: str, *urls: str) -> str:
    stream = client.chat.completions.create(
        model=TINY_MODEL, messages=[user_message(question, *urls)], max_tokens=32, stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@pytest.mark.slow
def test_answers_about_images(client):
    shown = json.loads((IMAGES / "images.json").read_text())[0]
    question, expected = shown["question"], shown["answer"]
    with Image.open(IMAGES / shown["image"]) as opened:
        url = data_url(opened.convert("RGB"))
    assert streamed(client, question, url).strip() == expected
    if IS_V5:  # 4.57 streams every answer, which the client cannot read as a whole one
        answer = client.chat.completions.create(
            model=TINY_MODEL, messages=[user_message(question, url)], max_tokens=32
        )
        assert answer.choices[0].message.content.strip() == expected
    assert expected not in streamed(client, question)
