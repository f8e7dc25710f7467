"""The HTTP side: OpenAI's chat endpoint, the list of models, health and metrics."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from xgenmm_hf import __version__
from xgenmm_hf.serving.body import BodyReader
from xgenmm_hf.serving.description import (
    CHAT_ANSWERS,
    CHAT_BODY,
    METRICS_ANSWERS,
    Health,
    ModelCard,
    ModelList,
    describe,
    errors,
)
from xgenmm_hf.serving.engine import Done
from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.service import Service
from xgenmm_hf.serving.ticket import CLIENT_LEFT, Ticket


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BEARER = HTTPBearer(auto_error=False)


def build_app(
    service: Service, hosts: list[str] | None = None, on_ready: Callable[[], None] = lambda: None
) -> FastAPI:
    """Builds the application, which closes the service on shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        on_ready()
        yield
        await asyncio.to_thread(service.close)

    title = "xgenmm serve"
    # FastAPI's own endpoint for the description would not require the key.
    app = FastAPI(title=title, version=__version__, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_exception_handler(RequestError, _tell)
    app.add_exception_handler(HTTPException, _tell)
    app.add_exception_handler(Exception, _tell)
    _add_information(app, service)
    _add_chat(app, service)
    return app


def _tell(request: Request, error: Exception) -> Response:
    """Turns an exception into an error response in OpenAI's form."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        error = RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")
    elif not isinstance(error, RequestError):
        error = RequestError(500, "The server failed; its log says why.")
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


def _key_check(service: Service) -> list[Any]:
    """Returns the dependencies that refuse requests without the server's key; none where it has no key."""
    wanted = service.settings.api_key
    if wanted is None:
        return []

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.strip().encode(), wanted.encode()):
            raise RequestError(401, "The API key is missing or wrong: send Authorization: Bearer KEY.")

    return [Depends(check)]


def _add_information(app: FastAPI, service: Service) -> None:
    """Adds the endpoints for health, metrics, description and models."""
    keyed = _key_check(service)
    name = service.settings.name
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "xgenmm-hf"}

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        engine = service.engine
        state = "ok" if engine.alive else "failed" if engine.failed else "stopping"
        return JSONResponse({"status": state, "model": name}, 200 if engine.alive else 503)

    @app.get("/metrics", dependencies=keyed, response_class=Response, responses=METRICS_ANSWERS)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=METRICS_TYPE)

    @app.get("/openapi.json", dependencies=keyed, include_in_schema=False)
    async def description() -> dict[str, Any]:
        return describe(app)

    @app.get("/v1/models", dependencies=keyed, response_model=ModelList, responses=errors(401))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}", dependencies=keyed, response_model=ModelCard, responses=errors(401, 404))
    async def model(model: str) -> dict[str, Any]:
        service.check_model(model)
        return card


def _add_chat(app: FastAPI, service: Service) -> None:
    """Adds the chat endpoint; it reads the body itself, so that nothing large is read before it is allowed."""
    reader, keyed = BodyReader(service.settings), _key_check(service)

    @app.post("/v1/chat/completions", dependencies=keyed, openapi_extra=CHAT_BODY, responses=CHAT_ANSWERS)
    async def chat(request: Request) -> Response:
        try:
            body = await reader.read(request)
        except RequestError as error:
            service.metrics.requests.labels(str(error.status)).inc()
            raise
        except ClientDisconnect:
            service.metrics.requests.labels(str(CLIENT_LEFT)).inc()
            return Response(status_code=CLIENT_LEFT)
        # A request counts once its body has arrived.
        ticket = service.enter()
        try:
            started = await _unless_gone(request, ticket, service.start(body, ticket))
            if started and ticket.request.stream:
                return _Stream(service, ticket)
            answer = started and await _unless_gone(request, ticket, _collect(service, ticket))
        except RequestError as error:
            ticket.end(error.status)
            raise
        except BaseException as error:
            ticket.end(CLIENT_LEFT if isinstance(error, asyncio.CancelledError) else 500)
            raise
        ticket.end(CLIENT_LEFT if answer is None else 200)
        return Response(status_code=CLIENT_LEFT) if answer is None else JSONResponse(answer)


class _Stream(StreamingResponse):
    """A streamed answer; its ticket ends with the response, even if the generator never started."""

    def __init__(self, service: Service, ticket: Ticket):
        super().__init__(_stream(service, ticket), media_type="text/event-stream")
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.end(CLIENT_LEFT)


async def _unless_gone(request: Request, ticket: Ticket, work: Any) -> Any:
    """Awaits work; if the client leaves first, the work is cancelled and None is returned."""

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        # Cancelling a task is not enough: it continues if the result it waits for has just arrived.
        ticket.cancelled = True

    answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait_until_gone())
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        for task in (answer, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, RequestError):
                await task


async def _collect(service: Service, ticket: Ticket) -> dict[str, Any]:
    """Waits for a whole answer and returns the response's body."""
    text, done = "", Done("stop", 0)
    async for event in service.answer(ticket):
        if isinstance(event, Done):
            done = event
        else:
            text += event
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": done.reason,
    }
    return {**_head(ticket, "chat.completion"), "choices": [choice], "usage": _usage(ticket, done)}


async def _stream(service: Service, ticket: Ticket) -> AsyncIterator[str]:
    """Yields a streamed answer as server-sent events."""
    options = ticket.request.stream_options
    with_usage = options is not None and options.include_usage
    head = _head(ticket, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for event in service.answer(ticket):
            if not isinstance(event, Done):
                yield chunk({"content": event})
                continue
            yield chunk({}, event.reason)
            if with_usage:
                yield _event({**head, "choices": [], "usage": _usage(ticket, event)})
    except RequestError as error:
        ticket.end(error.status)
        yield _event(error.body())
        return
    ticket.end(200)
    yield "data: [DONE]\n\n"


def _head(ticket: Ticket, kind: str) -> dict[str, Any]:
    """Returns the fields that every response begins with."""
    name = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": ticket.request.model}


def _usage(ticket: Ticket, done: Done) -> dict[str, int]:
    """Returns the token counts of a request; prompt tokens include image tokens."""
    prompt, new = ticket.job.input_ids.shape[1], done.new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
