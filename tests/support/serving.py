"""A server in a thread of the test, and plain HTTP towards it."""

import base64
import http.client
import io
import json
import threading
import time
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image

from xgenmm_hf.serving.app import build_app
from xgenmm_hf.serving.server import limited_protocol, open_socket
from xgenmm_hf.serving.service import Service
from xgenmm_hf.serving.settings import Settings


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    """Returns an image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def user_message(text: str, *urls: str) -> dict[str, Any]:
    """Returns a user's message with images before the text."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


class Running:
    """A running server: its service and where it is."""

    def __init__(self, service: Service, port: int):
        self.service, self.port = service, port
        self.url = f"http://127.0.0.1:{port}/v1"

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Sends one request and returns status and body, read as JSON where it is some."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            text = response.read().decode()
            is_json = response.getheader("content-type", "").startswith("application/json")
            return response.status, json.loads(text) if is_json else text
        finally:
            connection.close()

    def chat(self, body: dict[str, Any] | bytes, **headers: str) -> tuple[int, Any]:
        """Sends a chat request; the model's name is added."""
        if isinstance(body, dict):
            body = json.dumps({"model": self.service.settings.name, **body}).encode()
        return self.request("POST", "/v1/chat/completions", body, **{"content_type": "application/json", **headers})

    def wait_until(self, condition: Any, seconds: float = 30) -> None:
        """Waits until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("The server did not come to the expected state.")
            time.sleep(0.01)


@contextmanager
def run_server(loaded: Any, **settings: Any):
    """Runs a server on a free port."""
    service = Service(loaded, Settings(name="tiny", **settings))
    listener = open_socket("127.0.0.1", 0)
    app = build_app(service, hosts=["127.0.0.1", "localhost"])
    protocol = limited_protocol(service.settings.max_body_seconds)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Running(service, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        service.close()
        listener.close()
