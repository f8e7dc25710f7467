"""Bodies made to cost more than they weigh: refused at once, with little memory, whatever they hold."""

import asyncio
import json
import threading
import time
import tracemalloc

import pytest
from fastapi import Request

from xgenmm_hf.serving.body import BodyReader
from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.schema import ChatRequest, read_request
from xgenmm_hf.serving.settings import Settings


def in_content(parts: str) -> bytes:
    return f'{{"model": "m", "messages": [{{"role": "user", "content": {parts}}}]}}'.encode()


MIB = 1 << 20
HOSTILE = {
    "numbers as parts": in_content("[" + "1," * (2 * MIB) + "1]"),
    "as many as a body may hold": in_content("[" + "1," * 30_000 + "1]"),
    "empty parts": in_content("[" + "{}," * MIB + "{}]"),
    "messages": ('{"model": "m", "messages": [' + "1," * MIB + "1]}").encode(),
    "stops": ('{"model": "m", "messages": [], "stop": [' + "1," * MIB + "1]}").encode(),
    "tools": ('{"model": "m", "messages": [], "tools": [' + "[]," * MIB + "1]}").encode(),
    "metadata": ('{"metadata": {' + ",".join(f'"{n}":1' for n in range(200_000)) + "}}").encode(),
    "unknown keys": ("{" + ",".join(f'"{n}":1' for n in range(200_000)) + "}").encode(),
    "a few unknown keys": ("{" + ",".join(f'"{n}":1' for n in range(15_000)) + "}").encode(),
    "nesting": b"[" * (4 * MIB),
    "quotes": b'"' * (4 * MIB),
    "backslashes": b'"' + b"\\" * (4 * MIB),
    "commas in a string that never ends": b'{"model": "' + b"," * (4 * MIB),
}


def receive_and_read(body: bytes) -> ChatRequest:
    """Reads a body as the server does: in parts, then as a whole."""
    parts = [body[start : start + (1 << 16)] for start in range(0, len(body), 1 << 16)]

    async def receive() -> dict:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    return read_request(asyncio.run(BodyReader(Settings(name="m")).read(Request(scope, receive))))


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_refused_within_a_small_multiple_of_its_size(body):
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as refused:
            receive_and_read(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.status == 400 and len(refused.value.message) < 300
    assert peak < 8 * len(body) + 24 * MIB


def test_a_hostile_body_is_refused_before_all_of_it_is_there():
    asked = 0

    async def receive() -> dict:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"1," * 30_000, "more_body": True}

    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)
    with pytest.raises(RequestError, match="more than 40000 commas"):
        asyncio.run(BodyReader(Settings(name="m")).read(request))
    assert asked == 2


def test_a_long_request_is_no_hostile_one():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * MIB}}
    text = {"type": "text", "text": 'He said "one, two, three" [and more], {so}.' * 500}
    messages = [{"role": "user", "content": [image, text]}, {"role": "assistant", "content": "yes, \n no"}] * 10
    request = receive_and_read(json.dumps({"model": "m", "messages": messages}).encode())
    assert len(request.messages) == 20 and request.messages[0].content[1].text == text["text"]


@pytest.mark.parametrize(
    "field", [{"max_tokens": "1"}, {"max_tokens": True}, {"max_tokens": 1.0}, {"n": 1.0}, {"n": True}, {"top_p": "1"}]
)
def test_numbers_are_numbers(field):
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    read_request(json.dumps(body).encode())
    with pytest.raises(RequestError, match=next(iter(field))):
        read_request(json.dumps({**body, **field}).encode())


def test_health_answers_while_hostile_bodies_are_read(server):
    worst, done = 0.0, threading.Event()

    def attack() -> None:
        for body in HOSTILE.values():
            server.chat(body)
        done.set()

    attacker = threading.Thread(target=attack)
    attacker.start()
    while not done.wait(0.02):
        start = time.monotonic()
        assert server.request("GET", "/health")[0] == 200
        worst = max(worst, time.monotonic() - start)
    attacker.join()
    print(f"worst time of /health: {1000 * worst:.0f} ms")
