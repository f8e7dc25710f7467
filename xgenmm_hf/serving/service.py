"""From a request's body to a running answer: checks, images, prompt, job."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from PIL import Image

from xgenmm_hf.inference.asking import room_for_answer
from xgenmm_hf.inference.feature_cache import FeatureCache
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompts import render_prompt
from xgenmm_hf.modeling.legacy_api_xgenmm import expand_rows
from xgenmm_hf.serving.engine import Done, Engine, Event, Job
from xgenmm_hf.serving.errors import OUT_OF_MEMORY, RequestError
from xgenmm_hf.serving.images import image_of_url, is_remote
from xgenmm_hf.serving.metrics import Metrics
from xgenmm_hf.serving.remote import fetch
from xgenmm_hf.serving.sampling import Sampling
from xgenmm_hf.serving.schema import ChatRequest, Message, TextPart, read_request
from xgenmm_hf.serving.settings import MIB, Settings
from xgenmm_hf.serving.ticket import Ticket


PREPARERS, IMAGES_PER_TURN = 4, 4
# Threads that wait for other sites, separate from those that compute.
FETCHERS, FETCH_SECONDS = 32, 20.0
# The engine reports a passed deadline itself; if it does not, the answer ends this many seconds later.
SLACK = 1.0
# No tokenizer averages so many characters per token, so a longer text is refused without tokenising it.
CHARACTERS_PER_TOKEN = 32
Result = TypeVar("Result")


class Service:
    """Answers requests with one model; `on_failure` is called if the engine gives up."""

    def __init__(self, loaded: Loaded, settings: Settings, on_failure: Callable[[], None] = lambda: None):
        self.loaded, self.settings, self.metrics = loaded, settings, Metrics()
        limits = settings.max_batch, settings.max_batch_tokens
        self.engine = Engine(loaded, *limits, self.metrics.rows.observe, on_failure)
        self.metrics.watch(self.engine)
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="xgenmm-prepare")
        # One body is parsed at a time, because parsing holds the interpreter and other threads need it in between.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="xgenmm-read")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="xgenmm-fetch")
        self._cache = FeatureCache(loaded.model, loaded.processor, settings.kept_mib * MIB)
        # The cache is used by one thread at a time, and so is the tokenizer, which stores its padding settings.
        self._cache_lock, self._tokenizer_lock = threading.Lock(), threading.Lock()
        self._open = 0

    def close(self, seconds: float = 0.0) -> None:
        """Ends the engine; see `Engine.close`."""
        for pool in (self._readers, self._preparers, self._fetchers):
            pool.shutdown(wait=False, cancel_futures=True)
        self.engine.close(seconds)

    def enter(self) -> Ticket:
        """Returns the ticket of a new request, or raises a RequestError if too many wait."""
        if self._open >= self.settings.max_batch + self.settings.max_waiting:
            self.metrics.requests.labels("429").inc()
            raise RequestError(429, "Too many requests are waiting; try again.", code="queue_full", retry_after=1)
        self._open += 1
        started = time.monotonic()
        return Ticket(started, started + self.settings.max_seconds, self._leave)

    def _leave(self, status: int, started: float) -> None:
        self._open -= 1
        self.metrics.requests.labels(str(status)).inc()
        if status < 400:
            self.metrics.seconds.observe(time.monotonic() - started)

    async def start(self, body: bytes, ticket: Ticket) -> Ticket:
        """Starts answering a request and returns its ticket, from which `answer` reads."""
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            try:
                loop.call_soon_threadsafe(ticket.events.put_nowait, event)
            except RuntimeError:  # the server's loop is closed
                ticket.job.cancelled = True

        request = ticket.request = await self._in_thread(self._readers, ticket, self._check, body)
        fetched = await self._fetch(request, ticket)
        prepared = await self._in_thread(self._preparers, ticket, self._prepare, request, fetched, ticket)
        input_ids, images, room = prepared
        ticket.job = Job(
            input_ids=input_ids,
            max_new_tokens=min(self._wanted_tokens(request), room),
            emit=emit,
            images=images,
            sampling=self._sampling(request),
            stops=request.stops,
            stream=bool(request.stream),
            deadline=ticket.deadline,
        )
        ticket.check()
        self.engine.submit(ticket.job)
        self.metrics.prompt_tokens.inc(input_ids.shape[1])
        self.metrics.images.inc(len(images))
        return ticket

    async def answer(self, ticket: Ticket) -> AsyncIterator[str | Done]:
        """Yields the pieces of an answer and its end; the job is cancelled when the caller stops reading."""
        told = False
        try:
            while True:
                seconds = max(ticket.job.deadline + SLACK - time.monotonic(), 0.0)
                try:
                    event = await asyncio.wait_for(ticket.events.get(), seconds)
                except (TimeoutError, asyncio.TimeoutError):
                    raise RequestError(503, "The model does not answer; try again.", code="timeout") from None
                if isinstance(event, RequestError):
                    raise event
                if not told:
                    told = True
                    self.metrics.first_seconds.observe(time.monotonic() - ticket.started)
                if isinstance(event, Done):
                    self.metrics.new_tokens.inc(event.new_tokens)
                yield event
                if isinstance(event, Done):
                    return
        finally:
            ticket.job.cancelled = True

    async def _in_thread(
        self, pool: ThreadPoolExecutor, ticket: Ticket, work: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Awaits work in a thread until the request's deadline; work that has not begun by then is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        try:
            result = await asyncio.wait_for(future, max(ticket.left, 0.01))
        except (TimeoutError, asyncio.TimeoutError):
            ticket.cancelled = True
            raise RequestError(503, "Preparing the request took too long; try again.", code="timeout") from None
        ticket.check()
        return result

    async def _fetch(self, request: ChatRequest, ticket: Ticket) -> dict[str, bytes]:
        """Fetches the remote images of a request concurrently, in other threads than those that compute."""
        urls = {url for url in request.urls if is_remote(url)}
        if not urls or not self.settings.allow_remote:
            return {}

        def fetch_one(url: str) -> bytes:
            ticket.check()
            return fetch(url, self.settings.max_bytes, min(ticket.left, FETCH_SECONDS))

        tasks = [asyncio.ensure_future(self._in_thread(self._fetchers, ticket, fetch_one, url)) for url in urls]
        try:
            return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()

    def check_model(self, name: str) -> None:
        """Raises a RequestError for any other model than the server's."""
        if name != self.settings.name:
            message = f"There is no model {name[:80]!r} here; this server has {self.settings.name!r}."
            raise RequestError(404, message, code="model_not_found", param="model")

    def _check(self, body: bytes) -> ChatRequest:
        """Parses a request and makes the checks that need no further work."""
        request = read_request(body)
        self.check_model(request.model)
        self._wanted_tokens(request)
        count, most = len(request.urls), self.settings.max_images
        if count > most:
            raise RequestError(400, f"The messages hold {count} images; the limit is {most}.", param="messages")
        texts = [part.text for message in request.messages for part in message.parts if isinstance(part, TextPart)]
        context = self.loaded.model.config.text_config.max_position_embeddings
        if sum(map(len, texts)) > context * CHARACTERS_PER_TOKEN:
            message = f"The messages are longer than the model's context of {context} tokens: use shorter texts."
            raise RequestError(400, message, code="context_length_exceeded", param="messages")
        return request

    def _prepare(
        self, request: ChatRequest, fetched: Mapping[str, bytes], ticket: Ticket
    ) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        """Returns a request's ids (1, length), its images' tokens and the room for an answer; runs in a thread.

        Images are encoded here and not in the engine's thread, so that running answers continue.
        """
        messages, images = self._messages(request.messages, fetched, ticket)
        input_ids = self._encode_text(messages, images)
        try:
            room = room_for_answer(self.loaded.model.config, input_ids.shape[1])
        except ValueError as error:
            raise RequestError(400, str(error), code="context_length_exceeded", param="messages") from None
        ticket.check()
        return input_ids, self._encode_images(images, ticket, input_ids[0]), room

    def _encode_images(self, images: list[Image.Image], ticket: Ticket, prompt: torch.Tensor) -> list[torch.Tensor]:
        """Returns the tokens of a request's images; encodes a few at once, as a call cannot be interrupted."""
        tokens: list[torch.Tensor] = []
        for start in range(0, len(images), IMAGES_PER_TURN):
            part = images[start : start + IMAGES_PER_TURN]
            with self._cache_lock:
                ticket.check()
                try:
                    tokens += self._cache.encode(part, prompts=[prompt] * len(part))
                except (torch.OutOfMemoryError, MemoryError):
                    raise RequestError(500, OUT_OF_MEMORY, code="model_error") from None
        return tokens

    def _encode_text(self, messages: list[dict[str, Any]], images: list[Image.Image]) -> torch.Tensor:
        """Returns the ids of a chat, each image as many image tokens as it has, (1, length)."""
        processor, config = self.loaded.processor, self.loaded.model.config
        with self._tokenizer_lock:
            text = render_prompt(processor, messages)
            row = torch.tensor(processor.tokenizer(text)["input_ids"])
        counts = processor._get_num_multimodal_tokens([(image.height, image.width) for image in images])
        return torch.stack(
            expand_rows([row], counts["num_image_tokens"], config.image_token_id, config.image_placeholder_token_id)
        )

    def _messages(
        self, messages: list[Message], fetched: Mapping[str, bytes], ticket: Ticket
    ) -> tuple[list[dict[str, Any]], list[Image.Image]]:
        """Returns messages for the chat template, and their images."""
        rendered, images, left = [], [], self.settings.max_pixels
        for number, message in enumerate(messages):
            content: list[dict[str, Any]] = []
            for index, part in enumerate(message.parts):
                if isinstance(part, TextPart):
                    content.append({"type": "text", "text": part.text})
                    continue
                ticket.check()
                name = f"messages[{number}].content[{index}]"
                if message.role != "user":
                    raise RequestError(400, f"{name}: only user messages may hold images.", param="messages")
                content.append({"type": "image"})
                images.append(image_of_url(part.image_url.url, name, self.settings, fetched, left))
                left -= images[-1].width * images[-1].height
            rendered.append({"role": "system" if message.role == "developer" else message.role, "content": content})
        return rendered, images

    def _wanted_tokens(self, request: ChatRequest) -> int:
        """Returns the longest answer that a request asks for, or refuses it."""
        wanted = request.max_completion_tokens or request.max_tokens
        if wanted is None:
            return min(self.settings.default_new_tokens, self.settings.max_new_tokens)
        if wanted > self.settings.max_new_tokens:
            message = f"max_tokens is {wanted}; this server gives {self.settings.max_new_tokens} at most."
            raise RequestError(400, message, param="max_tokens")
        return wanted

    def _sampling(self, request: ChatRequest) -> Sampling:
        """Returns how to choose tokens; options that a request does not set are the model's defaults."""
        own = self.loaded.model.generation_config
        chosen: dict[str, Any] = {"temperature": 1.0 if own.do_sample else 0.0, "top_p": 1.0, "top_k": 0}
        for source in (own, request) if own.do_sample else (request,):
            stated = {name: getattr(source, name) for name in chosen}
            chosen |= {name: value for name, value in stated.items() if value is not None}
        return Sampling(
            **chosen,
            seed=request.seed,
            frequency_penalty=request.frequency_penalty or 0.0,
            presence_penalty=request.presence_penalty or 0.0,
        )
