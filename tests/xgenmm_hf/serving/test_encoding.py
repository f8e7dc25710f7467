"""The encoder of images: what waits together is encoded together, and nobody pays for another's fault."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from xgenmm_hf.serving.encoding import ImageEncoder
from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.ticket import Ticket


class SlowCache:
    """A cache whose first call waits until it may go on; the tokens of an "image" are its number."""

    def __init__(self):
        self.calls, self.begun, self.may_go_on = [], threading.Event(), threading.Event()
        self.prompts = []

    def encode(self, images, prompts):
        self.calls.append(list(images))
        self.prompts.append(list(prompts))
        self.begun.set()
        assert self.may_go_on.wait(10)
        if "bad" in images:
            raise ValueError("cannot read that")
        if "huge" in images:
            raise torch.OutOfMemoryError
        return [torch.tensor([number]) for number in images]


def ticket(seconds=30):
    return Ticket(time.monotonic(), time.monotonic() + seconds)


def submit(pool, encoder, cache, requests, seconds=30):
    """Sends a first request, waits until it is being encoded, and sends the others; returns all their futures."""
    futures = [pool.submit(encoder.encode, [0], ticket(30))]
    assert cache.begun.wait(10)
    for request in requests:
        futures.append(pool.submit(encoder.encode, request, ticket(seconds)))
        while len(encoder._queue) < len(futures) - 1:
            time.sleep(0.001)
    return futures


@pytest.fixture
def cache():
    return SlowCache()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_waiting_requests_share_a_call(cache, pool):
    encoder = ImageEncoder(cache)
    futures = submit(pool, encoder, cache, [[1], [2, 3], [4]])
    cache.may_go_on.set()
    assert [torch.stack(future.result()).flatten().tolist() for future in futures] == [[0], [1], [2, 3], [4]]
    assert cache.calls == [[0], [1, 2, 3, 4]]


def test_a_call_has_a_limit_but_every_request_is_taken(cache, pool):
    encoder = ImageEncoder(cache, images_per_call=2)
    futures = submit(pool, encoder, cache, [[1], [2], [3], [4, 5, 6]])
    cache.may_go_on.set()
    assert [len(future.result()) for future in futures] == [1, 1, 1, 1, 3]
    assert cache.calls == [[0], [1, 2], [3], [4, 5], [6]]


def test_every_image_keeps_the_prompt_of_its_request(cache, pool):
    cache.may_go_on.set()
    prompt = torch.tensor([7, 8])
    ImageEncoder(cache, images_per_call=2).encode([1, 2, 3], ticket(), prompt)
    assert [[one is prompt for one in call] for call in cache.prompts] == [[True, True], [True]]


def test_a_fault_is_its_own_requests(cache, pool):
    encoder = ImageEncoder(cache)
    first, good, bad, huge = submit(pool, encoder, cache, [[1], ["bad"], ["huge"]])
    cache.may_go_on.set()
    assert [first.result(), good.result()] == [[torch.tensor([0])], [torch.tensor([1])]]
    with pytest.raises(ValueError, match="cannot read that"):
        bad.result()
    with pytest.raises(RequestError, match="out of memory") as full:
        huge.result()
    assert full.value.status == 500


def test_whoever_waited_too_long_is_told(cache, pool):
    encoder = ImageEncoder(cache, images_per_call=1)
    first, *late = submit(pool, encoder, cache, [[1], [2]], seconds=0.05)
    time.sleep(0.1)
    cache.may_go_on.set()
    assert first.result() == [torch.tensor([0])]
    for future in late:
        with pytest.raises(RequestError, match="waited too long"):
            future.result()
    assert cache.calls == [[0]]
    assert not encoder._queue


def test_the_work_for_somebody_who_left_ends_with_the_call(cache, pool):
    encoder = ImageEncoder(cache, images_per_call=2)
    one = ticket()
    future = pool.submit(encoder.encode, [0, 1, 2, 3, 4], one)
    assert cache.begun.wait(10)
    one.cancelled = True
    cache.may_go_on.set()
    with pytest.raises(RequestError, match="has left"):
        future.result()
    assert cache.calls == [[0, 1]]
