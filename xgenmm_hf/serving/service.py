"""From a request's body to a running answer: checks, images, prompt, job."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from PIL import Image

from xgenmm_hf.inference.feature_cache import FeatureCache
from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.inference.prompts import render_prompt
from xgenmm_hf.modeling.legacy_api_xgenmm import expand_rows
from xgenmm_hf.serving.engine import Done, Engine, Event, Job, Piece, room_for
from xgenmm_hf.serving.errors import OUT_OF_MEMORY, RequestError
from xgenmm_hf.serving.images import is_remote, read_image
from xgenmm_hf.serving.metrics import Metrics
from xgenmm_hf.serving.remote import fetch
from xgenmm_hf.serving.sampling import Sampling
from xgenmm_hf.serving.schema import ChatRequest, ImagePart, Message, TextPart, read_request
from xgenmm_hf.serving.settings import MIB, Settings
from xgenmm_hf.serving.ticket import Ticket


PREPARERS, IMAGES_PER_TURN = 4, 4
# Threads that wait for other sites; they never keep one that computes.
FETCHERS, FETCH_SECONDS = 32, 20.0
# The engine tells of a deadline itself; so much later the answer ends without it.
SLACK = 1.0
# No tokenizer's tokens are that long on average; a longer text need not be tokenised to know that it does not fit.
CHARACTERS_PER_TOKEN = 32
Result = TypeVar("Result")


@dataclass(eq=False)
class Running:
    """An answer that is being generated."""

    request: ChatRequest
    job: Job
    ticket: Ticket
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, image tokens included."""
        return self.job.input_ids.shape[1]

    async def pieces(self) -> AsyncIterator[Piece | Done]:
        """Yields the answer up to its end; the job is cancelled when nobody listens any more."""
        try:
            while True:
                seconds = max(self.job.deadline + SLACK - time.monotonic(), 0.0)
                try:
                    event = await asyncio.wait_for(self.events.get(), seconds)
                except (TimeoutError, asyncio.TimeoutError):
                    raise RequestError(503, "The model does not answer; try again.", code="timeout") from None
                if isinstance(event, RequestError):
                    raise event
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self.job.cancelled = True


class Service:
    """Answers requests with one model; `on_failure` is called if the engine cannot go on."""

    def __init__(self, loaded: Loaded, settings: Settings, on_failure: Callable[[], None] = lambda: None):
        self.loaded, self.settings, self.metrics = loaded, settings, Metrics()
        limits = settings.max_batch, settings.max_batch_tokens
        self.engine = Engine(loaded, *limits, self.metrics.rows.observe, on_failure)
        self.metrics.watch(self.engine)
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="xgenmm-prepare")
        # One body is read at a time: whoever reads holds the interpreter, and others want it in between.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="xgenmm-read")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="xgenmm-fetch")
        self._cache = FeatureCache(loaded.model, loaded.processor, settings.kept_mib * MIB)
        # The cache is used by one thread at a time; so is the tokenizer, which keeps its padding settings in itself.
        self._cache_lock, self._tokenizer_lock = threading.Lock(), threading.Lock()
        self._open = 0

    def close(self, seconds: float = 0.0) -> None:
        """Ends the engine; see `Engine.close`."""
        for pool in (self._readers, self._preparers, self._fetchers):
            pool.shutdown(wait=False, cancel_futures=True)
        self.engine.close(seconds)

    def enter(self) -> Ticket:
        """Counts a request in, until its ticket ends."""
        if self._open >= self.settings.max_batch + self.settings.max_waiting:
            self.metrics.requests.labels("429").inc()
            raise RequestError(429, "Too many requests are waiting; try again.", code="queue_full", retry_after=1)
        self._open += 1
        started = time.monotonic()
        return Ticket(started, started + self.settings.max_seconds, self._leave)

    def _leave(self, status: int, started: float) -> None:
        """Counts a request out."""
        self._open -= 1
        self.metrics.requests.labels(str(status)).inc()
        if status < 400:
            self.metrics.seconds.observe(time.monotonic() - started)

    async def start(self, body: bytes, ticket: Ticket) -> Running:
        """Starts answering a request."""
        request = await self._in_thread(self._readers, ticket, self._check, body)
        fetched = await self._fetch(request, ticket)
        input_ids, images = await self._in_thread(self._preparers, ticket, self._prepare, request, fetched, ticket)
        length = input_ids.shape[1]
        loop = asyncio.get_running_loop()
        job = Job(
            input_ids=input_ids,
            max_new_tokens=room_for(self.loaded, self._wanted_tokens(request), length),
            emit=lambda event: None,
            images=images,
            sampling=self._sampling(request),
            stops=request.stops,
            stream=bool(request.stream),
            deadline=ticket.deadline,
        )
        ticket.job, running = job, Running(request, job, ticket)

        def emit(event: Event) -> None:
            try:
                loop.call_soon_threadsafe(running.events.put_nowait, event)
            except RuntimeError:  # the server's loop is closed
                job.cancelled = True

        job.emit = emit
        ticket.check()
        self.engine.submit(job)
        self.metrics.prompt_tokens.inc(length)
        self.metrics.images.inc(len(images))
        return running

    async def _in_thread(
        self, pool: ThreadPoolExecutor, ticket: Ticket, work: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Awaits work in a thread until the request's deadline; what has not begun by then never begins."""
        future = asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        try:
            result = await asyncio.wait_for(future, max(ticket.left, 0.01))
        except (TimeoutError, asyncio.TimeoutError):
            ticket.cancelled = True
            raise RequestError(503, "Preparing the request took too long; try again.", code="timeout") from None
        ticket.check()
        return result

    async def _fetch(self, request: ChatRequest, ticket: Ticket) -> dict[str, bytes]:
        """Fetches the remote images of a request, all at once, away from the threads that compute."""
        urls = {part.image_url.url for part in image_parts(request) if is_remote(part.image_url.url)}
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

    def _check(self, body: bytes) -> ChatRequest:
        """Reads a request and refuses what needs no further work to be refused."""
        request = read_request(body)
        if request.model != self.settings.name:
            raise no_model(request.model, self.settings.name)
        self._wanted_tokens(request)
        count, most = len(image_parts(request)), self.settings.max_images
        if count > most:
            raise RequestError(400, f"The messages hold {count} images; the limit is {most}.", param="messages")
        self._check_length(request.messages)
        return request

    def _prepare(
        self, request: ChatRequest, fetched: Mapping[str, bytes], ticket: Ticket
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns a request's ids (1, length) and its images' tokens; in a thread of its own.

        Images are encoded here, beside the engine, so that nobody's answer stands still meanwhile.
        """
        messages, images = self._messages(request.messages, fetched, ticket)
        input_ids = self._encode_text(messages, images)
        room_for(self.loaded, 1, input_ids.shape[1])
        ticket.check()
        return input_ids, self._encode_images(images, ticket, input_ids[0])

    def _encode_images(self, images: list[Image.Image], ticket: Ticket, prompt: torch.Tensor) -> list[torch.Tensor]:
        """Returns the tokens of a request's images, a few per turn: a call of the model cannot be interrupted."""
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
            for index, part in enumerate(parts_of(message)):
                if isinstance(part, TextPart):
                    content.append({"type": "text", "text": part.text})
                    continue
                ticket.check()
                name = f"messages[{number}].content[{index}]"
                if message.role != "user":
                    raise RequestError(400, f"{name}: only user messages may hold images.", param="messages")
                content.append({"type": "image"})
                images.append(read_image(part.image_url.url, name, self.settings, fetched, left))
                left -= images[-1].width * images[-1].height
            rendered.append({"role": "system" if message.role == "developer" else message.role, "content": content})
        return rendered, images

    def _check_length(self, messages: list[Message]) -> None:
        """Refuses texts that cannot fit the context, before any time is spent on them."""
        parts = [part for message in messages for part in parts_of(message)]
        length = sum(len(part.text) for part in parts if isinstance(part, TextPart))
        context = self.loaded.model.config.text_config.max_position_embeddings
        if length > context * CHARACTERS_PER_TOKEN:
            message = f"The messages are longer than the model's context of {context} tokens: use shorter texts."
            raise RequestError(400, message, code="context_length_exceeded", param="messages")

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
        """Returns how to choose tokens; what a request leaves open is the model's own default."""
        own = self.loaded.model.generation_config
        sampled = bool(own.do_sample)

        def first(value: Any, default: Any, other: Any) -> Any:
            return value if value is not None else default if sampled and default is not None else other

        return Sampling(
            temperature=first(request.temperature, own.temperature, 1.0 if sampled else 0.0),
            top_p=first(request.top_p, own.top_p, 1.0),
            top_k=first(request.top_k, own.top_k, 0),
            seed=request.seed,
            frequency_penalty=request.frequency_penalty or 0.0,
            presence_penalty=request.presence_penalty or 0.0,
        )


def no_model(asked: str, name: str) -> RequestError:
    """Returns the refusal of a model that is not here."""
    message = f"There is no model {asked[:80]!r} here; this server has {name!r}."
    return RequestError(404, message, code="model_not_found", param="model")


def parts_of(message: Message) -> list[TextPart | ImagePart]:
    """Returns the texts and images of a message."""
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return list(message.content)


def image_parts(request: ChatRequest) -> list[ImagePart]:
    """Returns the images of a request, in order."""
    return [part for message in request.messages for part in parts_of(message) if isinstance(part, ImagePart)]
