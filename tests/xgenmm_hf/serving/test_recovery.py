"""One row's fault is its own; a fault of the engine fails the running rows; one that cannot go on says so."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from serving import data_url, run_server, user_message

from xgenmm_hf.serving import engine as engine_module
from xgenmm_hf.serving import service as service_module


def ask(running, **fields):
    return running.chat({"messages": [user_message("What is this?")], "max_tokens": 40, **fields})


def test_a_fault_in_one_row_ends_that_row_alone(loaded, monkeypatch, caplog):
    with run_server(loaded) as running, ThreadPoolExecutor() as pool:
        engine = running.service.engine
        engine._ends = frozenset()
        expected = ask(running)[1]["choices"]
        monkeypatch.setattr(engine_module.Sampler, "pick", lambda sampler, logits: 1 / 0)
        turn, both_wait = engine._turn, threading.Event()
        engine._turn = lambda: both_wait.wait(60) and turn()  # so that both are read together
        both = [pool.submit(ask, running), pool.submit(ask, running, temperature=1.0)]
        running.wait_until(lambda: engine.waiting == 2)
        both_wait.set()
        plain, sampled = (one.result(60) for one in both)
        assert sampled[0] == 500
        assert plain[1]["choices"] == expected


def test_options_that_fail_fail_their_request_alone(loaded, monkeypatch, caplog):
    def broken(*args):
        raise MemoryError

    with run_server(loaded) as running:
        with monkeypatch.context() as patch:
            patch.setattr(engine_module, "Sampler", broken)
            status, body = ask(running, temperature=1.0)
            assert status == 500 and "out of memory" in body["error"]["message"]
        assert ask(running)[0] == 200


def test_a_fault_of_the_bookkeeping_fails_the_running_rows_and_no_more(loaded, caplog):
    with run_server(loaded) as running:
        batch = running.service.engine._batch
        keep, failures = batch.keep, [torch.OutOfMemoryError("no room")]

        def fail_once(rows):
            if failures:
                raise failures.pop()
            return keep(rows)

        batch.keep = fail_once
        ask(running)
        running.wait_until(lambda: not failures)
        assert ask(running)[0] == 200
        assert running.request("GET", "/health")[0] == 200


def test_an_engine_that_cannot_go_on_answers_everybody_and_says_so(loaded, caplog):
    with run_server(loaded, max_batch=1) as running, ThreadPoolExecutor() as pool:
        engine, failed = running.service.engine, threading.Event()
        engine._on_failure = failed.set
        step, go_on = engine._step, threading.Event()
        engine._step = lambda: go_on.wait(30) and step()
        engine._ends = frozenset()
        first = pool.submit(ask, running)
        running.wait_until(lambda: engine.running == 1)
        second = pool.submit(ask, running)
        running.wait_until(lambda: engine.waiting == 1)
        engine._take = lambda: 1 / 0
        engine._start_over = lambda error: 1 / 0
        go_on.set()
        assert {first.result(60)[0], second.result(60)[0]} == {500}
        assert failed.wait(10)
        status, body = running.request("GET", "/health")
        assert status == 503 and body["status"] == "failed"
        assert ask(running)[0] == 503


def test_deadlines_hold_where_the_engine_is_stuck(loaded, monkeypatch):
    monkeypatch.setattr(service_module, "SLACK", 0.2)
    with run_server(loaded, max_seconds=1) as running:
        stuck = threading.Event()
        running.service.engine._step = lambda: stuck.wait(60)
        start = time.monotonic()
        status, body = ask(running)
        stuck.set()
        assert status == 503 and "does not answer" in body["error"]["message"]
        assert time.monotonic() - start < 30


def test_the_work_for_clients_that_left_is_not_done(loaded, images, monkeypatch):
    decoded = []
    read = service_module.image_of_url
    monkeypatch.setattr(service_module, "image_of_url", lambda *a: decoded.append(1) or time.sleep(0.2) or read(*a))
    urls = [data_url(images[0])] * 15
    with run_server(loaded) as running:
        for _ in range(12):
            leave_early(running, urls)
        status, _ = ask(running)
        assert status == 200
        running.wait_until(lambda: running.service._open == 0)
        # twelve requests of fifteen images were sent; whoever had left by then was not worked for
        assert len(decoded) < 60


def leave_early(running, urls) -> None:
    """Sends a request and closes the connection before its answer."""

    body = json.dumps({"model": "tiny", "messages": [user_message("a", *urls)]})
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    connection.close()


def test_stalled_sites_keep_no_text_request_waiting(loaded, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(service_module, "fetch", lambda *args: release.wait(30) and b"")
    with run_server(loaded, allow_remote=True) as running, ThreadPoolExecutor(8) as pool:
        message = user_message("a", "http://stalled.example/a.png")
        stalled = [pool.submit(running.chat, {"messages": [message]}) for _ in range(8)]
        running.wait_until(lambda: running.service._open == 8)
        assert ask(running)[0] == 200
        assert not any(one.done() for one in stalled)
        release.set()
        assert all(one.result(60)[0] == 400 for one in stalled)


def test_headers_that_do_not_come_close_the_connection(loaded):
    with run_server(loaded, max_body_seconds=1) as running:
        begun = [socket.create_connection(("127.0.0.1", running.port), timeout=30) for _ in range(2)]
        begun[1].sendall(b"GET /health HTTP/1.1\r\nHost: local")
        for connection in begun:
            with connection:
                assert connection.recv(100) == b""
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
            for _ in range(2):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += connection.recv(1000)
                assert answer.startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET /hea")
            while connection.recv(1000):
                pass
