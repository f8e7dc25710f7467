"""Reading a request's body within limits of size, memory and time, before it is parsed."""

import asyncio

from fastapi import Request

from xgenmm_hf.serving.errors import RequestError
from xgenmm_hf.serving.settings import Settings


# A request of a thousand messages with text and images stays below this limit. A list of a million numbers exceeds it,
# as it would take many times its size in memory. Commas in texts count too: a context does not hold so many.
MAX_VALUES = 40_000


class BodyReader:
    """Reads bodies; those still being received take no place in the queue, but share one limit of bytes."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """Returns the body of a request, or raises a RequestError for the limit that it exceeds."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(415, "The body must be JSON: send Content-Type: application/json.")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._settings.max_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            await asyncio.wait_for(self._receive(request, body), self._settings.max_body_seconds)
        except (TimeoutError, asyncio.TimeoutError):
            raise RequestError(408, "The body came too slowly.") from None
        finally:
            self._held -= len(body)
        return bytes(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        num_values = 0
        async for part in request.stream():
            body.extend(part)
            self._held += len(part)
            # Counted on arrival: a hostile body is refused early, and no thread holds the interpreter for long.
            num_values += len(part) - len(part.translate(None, b",[{"))
            if num_values > MAX_VALUES:
                message = f"The body holds more than {MAX_VALUES} commas and brackets: send fewer messages and words."
                raise RequestError(400, message, code="invalid_value")
            if len(body) > self._settings.max_bytes:
                raise self._too_large()
            if self._held > self._settings.max_held_bytes and self._held > len(body):
                message = "Too many bodies are being received; try again."
                raise RequestError(429, message, code="queue_full", retry_after=1)

    def _too_large(self) -> RequestError:
        return RequestError(413, f"The body is larger than the limit of {self._settings.max_body_mib} MiB.")
