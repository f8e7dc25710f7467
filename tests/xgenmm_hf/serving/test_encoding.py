"""Images of requests are encoded in turns of a few: nobody pays for another's fault, nor for work nobody wants."""

import time

import pytest
import torch
from PIL import Image

from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.service import Service
from xgenmm_hf.serving.settings import Settings
from xgenmm_hf.serving.ticket import Ticket


class Cache:
    """Stands for the cache of images' tokens: the tokens of an image are its width."""

    def __init__(self):
        self.calls, self.prompts, self.meanwhile = [], [], lambda: None

    def encode(self, images, prompts):
        self.calls.append([image.width for image in images])
        self.prompts += prompts
        self.meanwhile()
        return [torch.tensor([image.width]) for image in images]


@pytest.fixture
def service(loaded):
    service = Service(loaded, Settings(name="tiny"))
    service._cache = Cache()
    yield service
    service.close()


def encode(service, count, ticket=None):
    images = [Image.new("RGB", (1 + number, 1)) for number in range(count)]
    ticket = ticket or Ticket(time.monotonic(), time.monotonic() + 30)
    return service._encode_images(images, ticket, torch.tensor([7]))


def test_a_request_takes_turns_of_four_and_every_image_has_its_prompt(service):
    assert torch.cat(encode(service, 9)).tolist() == list(range(1, 10))
    assert service._cache.calls == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert [prompt.tolist() for prompt in service._cache.prompts] == [[7]] * 9


def test_the_work_for_somebody_who_left_ends_with_the_turn(service):
    ticket = Ticket(time.monotonic(), time.monotonic() + 30)
    service._cache.meanwhile = lambda: setattr(ticket, "cancelled", True)
    with pytest.raises(RequestError, match="has left"):
        encode(service, 9, ticket)
    assert service._cache.calls == [[1, 2, 3, 4]]


def test_whoever_waited_too_long_is_told(service):
    with pytest.raises(RequestError, match="waited too long"):
        encode(service, 1, Ticket(0.0, 0.0))
    assert service._cache.calls == []


def test_images_without_room_are_told_and_the_next_request_is_encoded(service):
    def full():
        raise torch.OutOfMemoryError

    service._cache.meanwhile = full
    with pytest.raises(RequestError, match="out of memory") as told:
        encode(service, 1)
    assert told.value.status == 500
    service._cache.meanwhile = lambda: None
    assert len(encode(service, 1)) == 1
