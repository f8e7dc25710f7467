"""Limits and options of requests do what they say: each test fails where the code that keeps it is taken out."""

import threading

import pytest
import torch
from serving import run_server, user_message

from xgenmm_hf.serving.engine import Engine, Job
from xgenmm_hf.serving.errors import RequestError


def ask(running, **fields):
    return running.chat({"messages": [user_message("Describe this image.")], "max_tokens": 30, **fields})


def test_top_p_of_a_request(server):
    def text(**fields) -> str:
        return ask(server, **fields)[1]["choices"][0]["message"]["content"]

    likeliest = text(temperature=0)
    assert any(text(temperature=2, seed=seed) != likeliest for seed in range(3))
    assert all(text(temperature=2, seed=seed, top_p=1e-6) == likeliest for seed in range(3))


def run_together(loaded, most_tokens: int) -> list[int]:
    """Lets two jobs wait, and returns how many rows each step had; a job holds 10 tokens and asks for 6."""
    rows, both_wait, done = [], threading.Event(), [threading.Event(), threading.Event()]
    engine = Engine(loaded, max_batch_tokens=most_tokens, on_step=rows.append)
    engine._ends = frozenset()
    turn = engine._turn
    engine._turn = lambda: both_wait.wait(60) and turn()
    for one in done:
        ids = torch.full((1, 10), 5)
        engine.submit(Job(ids, 6, lambda event, one=one: one.set() if hasattr(event, "reason") else None))
    both_wait.set()
    assert all(one.wait(60) for one in done)
    engine.close()
    return rows


@pytest.mark.parametrize(("most_tokens", "most_rows"), [(32, 2), (31, 1), (1, 1)])
def test_no_more_tokens_than_allowed_are_held_together(loaded, most_tokens, most_rows):
    assert max(run_together(loaded, most_tokens)) == most_rows


def test_a_row_that_runs_when_the_server_stops_gets_its_time_and_no_more(loaded):
    engine, events, running = Engine(loaded), [], threading.Event()
    engine._ends = frozenset()
    step = engine._step
    engine._step = lambda: running.set() or threading.Event().wait(0.01) or step()
    engine.submit(Job(torch.full((1, 10), 5), 2000, events.append))
    assert running.wait(60)
    engine.close(seconds=0.3)
    assert not engine._thread.is_alive()
    assert isinstance(events[-1], RequestError)
    assert events[-1].status == 503 and "The server is stopping" in events[-1].message


def test_a_waiting_request_is_answered_when_the_server_stops(loaded):
    with run_server(loaded, max_batch=1) as running:
        events, engine = [], running.service.engine
        engine._ends = frozenset()
        first, second = (Job(torch.full((1, 10), 5), 2000, lambda event: None) for _ in range(2))
        second.emit = events.append
        engine.submit(first)
        engine.submit(second)
        engine.close(seconds=0.1)
        assert [event.status for event in events] == [503]
