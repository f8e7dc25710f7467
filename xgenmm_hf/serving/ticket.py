"""The state of a request in the server: its work checks here whether the client still waits."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xgenmm_hf.serving.errors import RequestError


CLIENT_LEFT = 499


@dataclass(eq=False)
class Ticket:
    """One request from its arrival to its end; times are by `time.monotonic` and include waiting in queues."""

    started: float
    deadline: float
    on_end: Callable[[int, float], None] = lambda status, started: None
    cancelled: bool = False  # set by anyone who no longer wants the answer
    request: Any = None  # the `ChatRequest`, once it is read
    job: Any = None  # the engine's `Job`, once there is one
    events: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)  # of the job

    def end(self, status: int) -> None:
        """Ends the request, so that nothing more is computed for it; only the first call has an effect."""
        on_end, self.on_end = self.on_end, lambda status, started: None
        self.cancelled = True
        if self.job is not None:
            self.job.cancelled = True
        on_end(status, self.started)

    @property
    def left(self) -> float:
        """Seconds until the deadline, never below zero."""
        return max(self.deadline - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raises a RequestError if the client has left or the deadline has passed."""
        if self.cancelled:
            raise RequestError(CLIENT_LEFT, "The client has left.")
        if self.left == 0:
            raise RequestError(503, "The request waited too long; try again.", code="timeout", retry_after=5)
