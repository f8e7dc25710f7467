"""What a request's work looks at to learn whether anybody still waits for it."""

import time
from dataclasses import dataclass

from xgenmm_hf.serving.errors import RequestError


CLIENT_LEFT = 499


@dataclass(eq=False)
class Ticket:
    """One request's right to be worked on; times by `time.monotonic`, that in queues counts."""

    started: float
    deadline: float
    cancelled: bool = False  # set by anyone who no longer wants the answer

    @property
    def left(self) -> float:
        """Seconds until the deadline, never below zero."""
        return max(self.deadline - time.monotonic(), 0.0)

    def check(self) -> None:
        """Ends the work of a request that is over."""
        if self.cancelled:
            raise RequestError(CLIENT_LEFT, "The client has left.")
        if self.left == 0:
            raise RequestError(503, "The request waited too long; try again.", code="timeout", retry_after=5)
