"""The server's description of itself, `/openapi.json`: requests, answers, errors and the key."""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from xgenmm_hf.serving.schema import ChatRequest


REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    400: "The request is not what the server understands, or an image cannot be read.",
    401: "The API key is missing or wrong.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body or an image is too large.",
    415: "The body is not JSON.",
    429: "Too many requests are waiting.",
    500: "The model failed.",
    503: "The server is stopping, or the request took too long.",
}


class Problem(BaseModel):
    """Why a request failed."""

    message: str = Field(description="One sentence that names cause and fix.")
    type: str
    param: str | None = Field(description="The field it is about.")
    code: str | None = Field(description="A short name of the cause for programs.")


class ErrorAnswer(BaseModel):
    """Every failure has this form, which is OpenAI's."""

    error: Problem


class Health(BaseModel):
    """State of the server; `failed`: the model cannot continue and the process ends."""

    status: Literal["ok", "stopping", "failed"]
    model: str


class ModelCard(BaseModel):
    """The one model of this server."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """List of the models; it always has one."""

    object: Literal["list"]
    data: list[ModelCard]


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """One answer; there is always one."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Token counts; prompt tokens include image tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    """A whole answer; with `stream`, server-sent events carry OpenAI's chunks instead."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the error answers of an endpoint, as FastAPI takes them."""
    return {status: {"model": ErrorAnswer, "description": ERRORS[status]} for status in statuses}


CHAT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": ChatAnswer, "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    **errors(*ERRORS),
}
METRICS_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."},
    **errors(401),
}
CHAT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model="ChatRequest")}}},
    }
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Builds the description of an application."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    body = ChatRequest.model_json_schema(ref_template=REFERENCE)
    parts = body.pop("$defs", {})
    document["components"]["schemas"] |= {**parts, "ChatRequest": body}
    return document
