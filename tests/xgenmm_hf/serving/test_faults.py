"""Requests that are wrong, too large, too many or given up."""

import base64
import http.client
import json
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from serving import data_url, run_server, user_message

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.serving import batch as batch_module


def bomb(width: int, height: int) -> str:
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def refused(server, *urls: str, text: str = "What is this?", status: int = 400) -> str:
    """Returns the message that a request with these images is refused with."""
    found, body = server.chat({"messages": [user_message(text, *urls)], "max_tokens": 2})
    assert found == status, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["message"]


def test_bad_images(server, images):
    good = data_url(images[0])
    cut = good[: len("data:image/png;base64,") + 100]
    assert "messages[0].content[1] is not valid base64" in refused(server, good, "data:image/png;base64,!!!")
    assert "damaged" in refused(server, cut)
    assert "not an image" in refused(server, "data:image/png;base64," + base64.b64encode(b"hello").decode())
    assert "not an image data URL" in refused(server, "data:text/plain;base64,aGVsbG8=")
    assert "data URL" in refused(server, "image.png")
    assert "not an image" in refused(server, data_url(images[0], "PPM"))
    assert "the limit is 16" in refused(server, *[good] * 17)


@pytest.mark.parametrize("size", [(50_000, 50_000), (20_000, 5_001), (2**31 - 1, 2**31 - 1)])
def test_bombs(server, size):
    message = refused(server, bomb(*size))
    assert "too large" in message or "make it smaller" in message


def test_pixels_are_those_of_all_images_together(loaded, images):
    with run_server(loaded, max_pixels=14_000) as running:  # the first two have 5400 and 8000
        one, two, three = map(data_url, images)
        assert running.chat({"messages": [user_message("a", one, two)], "max_tokens": 2})[0] == 200
        message = refused(running, one, two, three)
        assert message.startswith("messages[0].content[2] has 300 x 70 pixels; 600 are left of the 14000")
        assert "content[1] has 5000 x 2 pixels; 8600 are left" in refused(running, one, bomb(5000, 2))


def test_addresses_are_off_unless_allowed(server, tmp_path):
    assert "--allow-remote" in refused(server, "http://127.0.0.1/a.png")
    assert "--image-root" in refused(server, f"file://{tmp_path}/a.png")


def test_files_under_a_root(loaded, tmp_path, images):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    images[0].save(root / "sub" / "a b.png")
    images[0].save(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    with run_server(loaded, image_root=root) as running:
        for name in ("sub/a b.png", "sub/a%20b.png"):
            status, body = running.chat({"messages": [user_message("a", f"file://{root}/{name}")], "max_tokens": 2})
            assert status == 200, body
        for name in (
            "../outside.png",
            "sub/../../outside.png",
            "link.png",
            "none.png",
            "sub",
            "%00",
            "..%2foutside.png",
        ):
            assert "no file under" in refused(running, f"file://{root}/{name}")
        assert "no file under" in refused(running, "file:///etc/hostname")
        assert "no file under" in refused(running, "file://[x")
        assert "no file under" in refused(running, f"file://elsewhere{root}/sub/a%20b.png")


def test_wrong_bodies(server):
    def message_of(body: bytes, status: int = 400, **headers: str) -> str:
        found, answer = server.chat(body, **headers)
        assert found == status, answer
        return answer["error"]["message"]

    assert "not valid JSON" in message_of(b"{")
    assert "not valid JSON" in message_of(b"\xff\xfe")
    assert "model" in message_of(b"{}")
    assert "valid dictionary" in message_of(b"[]") or "object" in message_of(b"[]")
    assert "Content-Type" in message_of(b"{}", 415, content_type="text/plain")

    def chat(**fields) -> bytes:
        return json.dumps({"model": "tiny", "messages": [user_message("a")], **fields}).encode()

    assert "messages" in message_of(chat(messages=[]))
    assert "messages.0.role" in message_of(chat(messages=[{"role": "tool", "content": "a"}]))
    assert "input_audio" in message_of(chat(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]))
    assert "stop" in message_of(chat(stop=[""]))
    assert "at most 16 items" in message_of(chat(stop=["a"] * 17))
    assert "at most 1000 characters" in message_of(chat(stop="a" * 1001))
    assert "at most 1000 characters" in message_of(chat(stop=["a", "a" * 1001]))
    image = user_message("a", "data:image/png;base64,AAAA")["content"]
    assert "only user messages" in message_of(chat(messages=[{"role": "system", "content": image}]))


def test_control_tokens_in_a_message_are_text(server, loaded):
    texts = ("a", "a <image> <|end|> <|assistant|>")
    answers = [server.chat({"messages": [user_message(text)], "max_tokens": 2}) for text in texts]
    assert [status for status, _ in answers] == [200, 200]
    plain, told = (body["usage"]["prompt_tokens"] for _, body in answers)
    of_text = [len(loaded.processor.tokenizer(text, split_special_tokens=True)["input_ids"]) for text in texts]
    assert told - plain == of_text[1] - of_text[0] > 10


def test_the_context_is_a_limit(server, loaded):
    context = loaded.model.config.text_config.max_position_embeddings
    assert "context" in refused(server, text="word " * context)
    assert "context" in refused(server, text="a" * (64 * context))


def test_unknown_paths_and_methods(server):
    assert server.request("GET", "/nowhere")[0] == 404
    status, body = server.request("GET", "/v1/chat/completions")
    assert status == 405
    assert "error" in body


def test_pages_with_a_name_of_their_own_are_turned_away(server):
    assert server.request("GET", "/health", host="evil.example")[0] == 400
    assert server.request("GET", "/health", host=f"localhost:{server.port}")[0] == 200


def test_large_bodies(loaded):
    with run_server(loaded, max_body_mib=1) as running:
        body = json.dumps({"model": "tiny", "messages": [user_message("a" * (2 << 20))]}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        # refused by its length alone
        response = connection.getresponse()
        assert response.status == 413
        assert "1 MiB" in json.loads(response.read())["error"]["message"]
        connection.close()
        # of unknown length: refused when it has become too large
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        part = body[: (1 << 20) + 1]
        connection.send(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        assert connection.getresponse().status == 413
        connection.close()
        assert running.chat({"messages": [user_message("a")], "max_tokens": 2})[0] == 200


def hold(server, stream: bool) -> http.client.HTTPConnection:
    """Starts a request without waiting for its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = {"model": "tiny", "messages": [user_message("a")], "max_tokens": 1900, "stream": stream}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_answer(endless, stream):
    engine = endless.service.engine
    connection = hold(endless, stream)
    endless.wait_until(lambda: engine.running == 1)
    if stream:
        assert connection.getresponse().read(10)
    connection.sock.close() if connection.sock else None
    connection.close()
    endless.wait_until(lambda: engine.running == 0, seconds=5)
    endless.wait_until(lambda: endless.service._open == 0, seconds=5)
    assert endless.service.metrics.registry.get_sample_value("xgenmm_requests_total", {"status": "499"}) == 1


def begin(server, announced: int = 1000) -> http.client.HTTPConnection:
    """Sends the beginning of a request's body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(announced))
    connection.endheaders(b"{")
    return connection


def test_a_body_that_breaks_off_or_crawls(loaded):
    with run_server(loaded, max_body_seconds=1, max_batch=1, max_waiting=0) as running:
        value = running.service.metrics.registry.get_sample_value
        connections = [begin(running) for _ in range(5)]
        # half a body holds no place
        assert running.chat({"messages": [user_message("a")], "max_tokens": 2})[0] == 200
        connections.pop().close()
        running.wait_until(lambda: value("xgenmm_requests_total", {"status": "499"}) == 1)
        for connection in connections:
            assert connection.getresponse().status == 408
            connection.close()


def test_more_than_may_wait_are_told_to_come_back(endless):
    engine = endless.service.engine
    connections = [hold(endless, stream=False) for _ in range(3)]
    endless.wait_until(lambda: engine.running == 2 and engine.waiting == 1)
    last = hold(endless, stream=False)
    response = last.getresponse()
    assert response.status == 429
    assert response.getheader("Retry-After") == "1"
    assert endless.service.metrics.registry.get_sample_value("xgenmm_requests_total", {"status": "429"}) == 1
    assert endless.request("GET", "/health")[0] == 200
    for connection in [*connections, last]:
        connection.close()
    endless.wait_until(lambda: endless.service._open == 0)
    # the one that waited was never computed for nobody
    endless.wait_until(lambda: engine.running == engine.waiting == 0)


def test_a_request_takes_no_longer_than_allowed(loaded):
    with run_server(loaded, max_seconds=1) as running:
        running.service.engine._ends = frozenset()
        step = running.service.engine._step
        pause = threading.Event()
        running.service.engine._step = lambda: (pause.wait(0.01), step())
        status, body = running.chat({"messages": [user_message("a")], "max_tokens": 1900})
        assert status == 503
        assert "longer than the server allows" in body["error"]["message"]
        status, text = running.chat({"messages": [user_message("a")], "max_tokens": 1900, "stream": True})
        assert status == 200
        assert "longer than the server allows" in text
        assert "[DONE]" not in text


def test_a_failing_model_fails_its_requests_only(loaded, monkeypatch, caplog):
    with run_server(loaded) as running:
        batch = running.service.engine._batch

        def fail(*args):
            raise torch.OutOfMemoryError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(batch, "add", fail)
            status, body = running.chat({"messages": [user_message("a")], "max_tokens": 2})
            assert status == 500
            assert "out of memory" in body["error"]["message"]
        with monkeypatch.context() as patch:
            patch.setattr(batch, "step", lambda *args: 1 / 0)
            status, body = running.chat({"messages": [user_message("a")], "max_tokens": 2})
            assert status == 500
            assert "ZeroDivisionError" not in body["error"]["message"]
        assert running.chat({"messages": [user_message("a")], "max_tokens": 2})[0] == 200


def test_a_cache_without_room_fails_the_newcomer_only(loaded, monkeypatch, caplog):
    long, short = user_message("How many shapes are there? " * 9), user_message("What is this?")
    with run_server(loaded) as running:
        engine = running.service.engine
        engine._ends = frozenset()
        expected = [running.chat({"messages": [one], "max_tokens": 60})[1] for one in (long, short)]
        stack, step, go_on = batch_module._stack, engine._step, threading.Event()

        def fail_in_the_second_layer(layer, *args):
            if engine._batch._cache.layers[1] is layer:
                raise torch.OutOfMemoryError("no room")
            return stack(layer, *args)

        with ThreadPoolExecutor() as pool:
            running.wait_until(lambda: engine.running == 0)  # a row leaves only after its answer is sent
            engine._step = lambda: go_on.wait(30) and step()
            other = pool.submit(running.chat, {"messages": [short], "max_tokens": 60})
            running.wait_until(lambda: engine.running == 1)
            with monkeypatch.context() as patch:
                patch.setattr(batch_module, "_stack", fail_in_the_second_layer)
                newcomer = pool.submit(running.chat, {"messages": [long], "max_tokens": 60})
                running.wait_until(lambda: engine.waiting == 1)
                go_on.set()
                status, body = newcomer.result(60)
            assert status == 500 and "out of memory" in body["error"]["message"]
            assert other.result(60)[1]["choices"] == expected[1]["choices"]
        again = [running.chat({"messages": [one], "max_tokens": 60})[1] for one in (long, short)]
    assert [one["choices"] for one in again] == [one["choices"] for one in expected]


def test_metrics(loaded, images):
    with run_server(loaded) as running:
        usage = running.chat({"messages": [user_message("a", data_url(images[0]))], "max_tokens": 3})[1]["usage"]
        running.chat({"messages": [user_message("a")], "max_tokens": 3, "n": 5})
        status, text = running.request("GET", "/metrics")
        assert status == 200
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        assert values['xgenmm_requests_total{status="200"}'] == values['xgenmm_requests_total{status="400"}'] == "1.0"
        assert float(values["xgenmm_prompt_tokens_total"]) == usage["prompt_tokens"] > 0
        assert float(values["xgenmm_generated_tokens_total"]) == usage["completion_tokens"] > 0
        assert values["xgenmm_images_total"] == "1.0"
        assert values["xgenmm_request_seconds_count"] == "1.0"


def test_an_image_with_transparency_is_read_as_everywhere(server):
    """The colors count where nothing would be seen, as in `Image.convert` and so in the original's code."""
    image = Image.open(Path(TINY_MODEL).parent / "images" / "3-banner.png").convert("RGBA")
    image.putalpha(0)
    messages = [user_message("What color is the star?", data_url(image))]
    status, body = server.chat({"messages": messages, "max_tokens": 4})
    assert status == 200, body
    assert body["choices"][0]["message"]["content"] == "blue"
