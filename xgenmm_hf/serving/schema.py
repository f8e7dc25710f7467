"""The requests that the server understands; a field it does not know, or cannot honour, is an error, never ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xgenmm_hf.serving.errors import RequestError


class _Strict(BaseModel):
    # strict: "1", true and 1.0 are no whole numbers, as in OpenAI's own API
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ImageAddress(_Strict):
    """Where an image is; ``detail`` is accepted and changes nothing."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageAddress


# More errors than this are only counted: to describe them would take longer than to read the body.
MAX_ERRORS = 100
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
# A list is read up to its first error, so that a million wrong items do not become a million errors.
Parts = Annotated[list[Part], Field(max_length=1000, fail_fast=True)]
Empty = Annotated[list[Any], Field(max_length=0)]


class Message(_Strict):
    """A turn of the chat; the empty fields are those that clients send back with an assistant's turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Parts
    name: str | None = None
    refusal: None = None
    audio: None = None
    annotations: Empty | None = None
    tool_calls: Empty | None = None
    function_call: None = None

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """Its texts and images."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else list(self.content)


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(_Strict):
    """Only plain text is offered."""

    type: Literal["text"]


class ChatRequest(_Strict):
    """Body of ``POST /v1/chat/completions``."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16, fail_fast=True)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    tools: Empty | None = None
    # These do not change the answer; they are accepted and ignored.
    user: str | None = None
    metadata: Annotated[dict[str, Any], Field(max_length=16)] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def urls(self) -> list[str]:
        """The addresses of its images, in order."""
        parts = [part for message in self.messages for part in message.parts]
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


def _progress(entry: Any) -> tuple[int, bool]:
    """Ranks a validation error by how far reading came: by depth, then by whether the value had the right type."""
    return len(entry["loc"]), not entry["type"].endswith("_type")


def read_request(body: bytes) -> ChatRequest:
    """Reads a request's body."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            message = f"The body has {error.error_count()} faults, such as fields that this server does not offer."
            raise RequestError(400, message, code="invalid_value") from None
        # If a field allows several types, each is tried; the error of the one that was read furthest is reported.
        first = max(error.errors(include_url=False, include_input=False), key=_progress)
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            message = f"Unknown field {where}: this server does not offer it; leave it out."
        elif first["type"] == "json_invalid":
            message = f"The body is not valid JSON ({first['msg']})."
        else:
            message = f"{where or 'The body'}: {first['msg']}."
        raise RequestError(400, message, code="invalid_value", param=where or None) from None
