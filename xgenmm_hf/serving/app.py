"""The HTTP side: OpenAI's chat endpoint, the list of models, health and metrics."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from xgenmm_hf import __version__
from xgenmm_hf.serving.engine import Done, Piece
from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.schema import ChatRequest
from xgenmm_hf.serving.service import CLIENT_LEFT, Running, Service


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DONE = "data: [DONE]\n\n"


def build_app(service: Service, hosts: list[str] | None = None) -> FastAPI:
    """Builds the application; it closes the service when it ends.

    Args:
        service: What answers.
        hosts: Host names that requests may be addressed to; None: any. A server on the loopback interface checks them,
            so that no web page can reach it under a name of its own.

    Returns:
        An ASGI application.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    title = "xgenmm serve"
    # FastAPI's own description of the API would ask for no key.
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
    """Turns every failure into OpenAI's form."""
    if isinstance(error, HTTPException):
        error = RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")
    elif not isinstance(error, RequestError):
        error = RequestError(500, "The server failed; its log says why.")
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


def _key_check(service: Service) -> Any:
    """Returns a dependency that refuses requests without the server's key."""
    wanted = service.settings.api_key

    async def check(request: Request) -> None:
        if wanted is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), wanted.encode()):
            raise RequestError(401, "The API key is missing or wrong: send Authorization: Bearer KEY.")

    return Depends(check)


def _add_information(app: FastAPI, service: Service) -> None:
    """Adds the endpoints that only tell something."""
    keyed = [_key_check(service)]
    name = service.settings.name
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "xgenmm-hf"}

    @app.get("/health")
    async def health() -> Response:
        state = {"status": "ok" if service.engine.alive else "stopping", "model": name}
        return JSONResponse(state, 200 if service.engine.alive else 503)

    @app.get("/metrics", dependencies=keyed)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=METRICS_TYPE)

    @app.get("/openapi.json", dependencies=keyed, include_in_schema=False)
    async def description() -> dict[str, Any]:
        return app.openapi()

    @app.get("/v1/models", dependencies=keyed)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}", dependencies=keyed)
    async def model(model: str) -> dict[str, Any]:
        if model != name:
            raise RequestError(404, f"There is no model {model!r} here; this server has {name!r}.", param="model")
        return card


def _add_chat(app: FastAPI, service: Service) -> None:
    """Adds the chat endpoint; it reads the body itself, so that nothing large is read before it is allowed."""
    schema = {"content": {"application/json": {"schema": ChatRequest.model_json_schema()}}, "required": True}

    @app.post("/v1/chat/completions", dependencies=[_key_check(service)], openapi_extra={"requestBody": schema})
    async def chat(request: Request) -> Response:
        started = time.monotonic()
        service.enter()
        outcome = _Outcome(service, started)
        try:
            running = outcome.running = await _start(service, request, started)
            if running.request.stream:
                return _Stream(outcome)
            body = await _unless_gone(request, _collect(service, running))
        except RequestError as error:
            outcome.end(error.status)
            raise
        except ClientDisconnect:
            outcome.end(CLIENT_LEFT)
            return Response(status_code=CLIENT_LEFT)
        except BaseException as error:
            outcome.end(CLIENT_LEFT if isinstance(error, asyncio.CancelledError) else 500)
            raise
        outcome.end(CLIENT_LEFT if body is None else 200)
        return Response(status_code=CLIENT_LEFT) if body is None else JSONResponse(body)


class _Outcome:
    """What becomes of one request: it is counted out, and its answer no longer computed, however it ends."""

    def __init__(self, service: Service, started: float):
        self.service, self.started = service, started
        self.running: Running | None = None
        self._ended = False

    def end(self, status: int) -> None:
        """Ends the request; only the first call counts."""
        if self._ended:
            return
        self._ended = True
        if self.running is not None:
            self.running.job.cancelled = True
        self.service.leave(status, self.started)


class _Stream(StreamingResponse):
    """A streamed answer, which ends with the response even where its generator never began."""

    def __init__(self, outcome: _Outcome):
        super().__init__(_stream(outcome), media_type="text/event-stream")
        self._outcome = outcome

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._outcome.end(CLIENT_LEFT)


async def _start(service: Service, request: Request, started: float) -> Running:
    """Reads a request's body within the limits and starts the answer."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "The body must be JSON: send Content-Type: application/json.")
    limit = service.settings.max_bytes
    large = RequestError(413, f"The body is larger than the limit of {service.settings.max_body_mib} MiB.")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise large
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > limit:
                raise large

    try:
        await asyncio.wait_for(read(), service.settings.max_seconds)
    except (TimeoutError, asyncio.TimeoutError):
        raise RequestError(408, "The body came too slowly.") from None
    return await service.start(bytes(body), started)


async def _unless_gone(request: Request, work: Any) -> Any:
    """Awaits work; if the client leaves first, the work is cancelled and None is returned."""

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait_until_gone())
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        for task in (answer, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, RequestError):
                await task


async def _collect(service: Service, running: Running) -> dict[str, Any]:
    """Waits for a whole answer and returns the response's body."""
    text, done = "", Done("stop", 0)
    async for event in running.pieces():
        if isinstance(event, Piece):
            text += event.text
        else:
            done = event
    service.metrics.first_seconds.observe(time.monotonic() - running.started)
    service.metrics.new_tokens.inc(done.new_tokens)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": done.reason,
    }
    return {**_head(running, "chat.completion"), "choices": [choice], "usage": _usage(running, done)}


async def _stream(outcome: _Outcome) -> AsyncIterator[str]:
    """Yields a streamed answer as server-sent events."""
    service, running = outcome.service, outcome.running
    if running is None:
        return
    options = running.request.stream_options
    with_usage = options is not None and options.include_usage
    head = _head(running, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    yield chunk({"role": "assistant", "content": ""})
    first = True
    try:
        async for event in running.pieces():
            if isinstance(event, Piece):
                if first:
                    service.metrics.first_seconds.observe(time.monotonic() - running.started)
                    first = False
                yield chunk({"content": event.text})
                continue
            service.metrics.new_tokens.inc(event.new_tokens)
            yield chunk({}, event.reason)
            if with_usage:
                yield _event({**head, "choices": [], "usage": _usage(running, event)})
    except RequestError as error:
        outcome.end(error.status)
        yield _event(error.body())
        return
    outcome.end(200)
    yield DONE


def _head(running: Running, kind: str) -> dict[str, Any]:
    """Returns the fields that every response begins with."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": running.request.model,
    }


def _usage(running: Running, done: Done) -> dict[str, int]:
    """Returns the tokens that a request cost, image tokens among the prompt's."""
    prompt, new = running.prompt_tokens, done.new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _event(data: dict[str, Any]) -> str:
    """Returns a server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
