"""Encoding of the images of requests: those that wait at the same time are encoded in one call."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from xgenmm_hf.inference.feature_cache import FeatureCache
from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.ticket import Ticket


# A call cannot be interrupted: the work for somebody who has left ends after so many images.
IMAGES_PER_CALL = 4


@dataclass(eq=False)
class _Waiting:
    """A request's images, and what became of them: their tokens or the error that they met."""

    images: Sequence[Image.Image]
    ticket: Ticket
    prompt: torch.Tensor | None
    tokens: list[torch.Tensor] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.tokens is not None or self.error is not None


class ImageEncoder:
    """Encodes images for several threads, one call at a time.

    Whoever gets the turn encodes what all others wait for too, so that small images share the cost of a call.

    Args:
        cache: Computes tokens and keeps them; nobody else may use it.
        images_per_call: Images encoded in one call.
    """

    def __init__(self, cache: FeatureCache, images_per_call: int = IMAGES_PER_CALL):
        self._cache, self._images_per_call = cache, images_per_call
        self._queue: deque[_Waiting] = deque()
        self._turn, self._queue_lock = threading.Lock(), threading.Lock()

    def encode(
        self, images: Sequence[Image.Image], ticket: Ticket, prompt: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Returns the tokens of a request's images."""
        waiting = _Waiting(images, ticket, prompt)
        with self._queue_lock:
            self._queue.append(waiting)
        while not waiting.done:
            with self._turn:
                if not waiting.done:
                    self._encode(self._next())
        if waiting.error is not None:
            raise waiting.error
        return waiting.tokens or []

    def _next(self) -> list[_Waiting]:
        """Takes the requests off the queue that are encoded together."""
        taken: list[_Waiting] = []
        with self._queue_lock:
            left = self._images_per_call
            while self._queue and (not taken or len(self._queue[0].images) <= left):
                taken.append(self._queue.popleft())
                left -= len(taken[-1].images)
        return taken

    def _encode(self, requests: list[_Waiting]) -> None:
        """Encodes requests together; if that fails, each by itself, so that one does not fail another."""
        try:
            tokens: list[torch.Tensor] = []
            images = [image for request in requests for image in request.images]
            prompts = [request.prompt for request in requests for _ in request.images]
            for start in range(0, len(images), self._images_per_call):
                if len(requests) == 1:
                    requests[0].ticket.check()
                chosen = slice(start, start + self._images_per_call)
                tokens += self._cache.encode(images[chosen], prompts=prompts[chosen])
            left = iter(tokens)
            for request in requests:
                request.tokens = [next(left) for _ in request.images]
        except Exception as error:
            if len(requests) > 1:
                for request in requests:
                    self._encode([request])
            elif isinstance(error, torch.OutOfMemoryError):
                requests[0].error = RequestError(500, "The server is out of memory: use fewer or smaller images.")
            else:
                requests[0].error = error
