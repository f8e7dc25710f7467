"""Running the application: the socket, the signals, the end."""

import asyncio
import gc
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from xgenmm_hf.inference.loading import Loaded
from xgenmm_hf.serving.app import build_app
from xgenmm_hf.serving.service import Service
from xgenmm_hf.serving.settings import Settings


def is_loopback(host: str) -> bool:
    """Tells whether a host to listen on is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_socket(host: str, port: int) -> socket.socket:
    """Opens the socket to listen on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"Cannot listen on {host} port {port} ({reason}): give another --host or --port.") from None
    # Connections inherit it; asyncio sets it only where the listening socket names the protocol. Without it the body
    # of an answer waits 40 ms for the acknowledgement of its header.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(
    loaded: Loaded,
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    access_log: bool = False,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves until the process is told to stop (SIGINT or SIGTERM); running requests are then finished first."""
    listener = open_socket(host, port)
    shown = f"[{host}]" if ":" in host else host
    hosts = ["localhost", "127.0.0.1", "::1", "[::1]", host] if is_loopback(host) else None

    def stop() -> None:
        server.should_exit = True

    service = Service(loaded, settings, on_failure=stop)
    # The socket already listens, so clients that connect now are served.
    app = build_app(service, hosts, lambda: on_ready(f"http://{shown}:{listener.getsockname()[1]}/v1"))
    config = uvicorn.Config(
        app,
        access_log=access_log,
        log_level="info" if access_log else "error",
        server_header=False,
        http=limited_protocol(settings.max_body_seconds),
        timeout_graceful_shutdown=max(int(settings.grace_seconds), 1),
    )
    server = uvicorn.Server(config)
    # Libraries and model are never freed. Searching their objects for garbage would delay all requests.
    gc.freeze()
    try:
        server.run(sockets=[listener])
    finally:
        gc.unfreeze()
        service.close()
        listener.close()
    if service.engine.failed:
        raise RuntimeError("The model failed and the server has stopped; its log says why. Start it again.")


def limited_protocol(seconds: float) -> type[H11Protocol]:
    """Returns an HTTP protocol that closes connections whose request line and headers do not come in time."""

    class LimitedProtocol(H11Protocol):
        _clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._clock = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            begun = self.cycle is not None and (self.cycle is not before or not self.cycle.response_complete)
            if begun and self._clock is not None:
                self._clock.cancel()
                self._clock = None
            elif not begun and self._clock is None:
                self._clock = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._clock is not None:
                self._clock.cancel()
            super().connection_lost(exc)

    return LimitedProtocol
