"""The errors that clients get, in the form that OpenAI's clients read."""

from dataclasses import dataclass
from typing import Any


OUT_OF_MEMORY = "The server is out of memory: use fewer or smaller images."


@dataclass(eq=False)
class RequestError(Exception):
    """A request that is refused or fails."""

    status: int
    message: str
    code: str | None = None  # a short name of the cause for programs
    param: str | None = None  # the field it is about
    retry_after: int | None = None  # in seconds

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """Returns the JSON body of the answer."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
