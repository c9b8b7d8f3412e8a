"""OpenAI's chat completions: what a request may say, the question it is, and the objects of the reply.

Fields that have no effect on the answer, and unknown ones, are ignored. Those that would change it and are not offered
here are refused by name.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from answering.serving.engine import Finished
from common.errors import UserError
from dataset.prompt import Turn, question_with_images
from settings import Generate, change_generate

MESSAGES = 256  # a prompt that is too long is shortened turn by turn
PICTURES = 16  # of one request
CHARACTERS = 32  # for each token of language.max_length; only runs of blanks are longer tokens
COLDEST = 0.01  # a lower temperature is greedy: divided by less, logits are no numbers any more
# What would change the answer, with the values that do not.
REFUSED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "logprobs": (None, False),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
}


StopString = Annotated[str, Field(min_length=1, max_length=200)]


class ApiError(Exception):
    """An error in OpenAI's form. ``kind`` is its type; ``code`` and ``param`` as OpenAI has them."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param

    def body(self) -> dict[str, Any]:
        """The content of the reply."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class TextPart(_Part):
    """A text of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """The address of a picture; ``detail`` is ignored, all pictures have the encoder's one size."""

    url: str


class ImagePart(_Part):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(_Part):
    """One message. ``developer`` is OpenAI's newer name for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None

    def text(self) -> str:
        """The texts of the message, joined as the chat template of an export joins them."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    def urls(self) -> list[str]:
        """The addresses of the message's pictures."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(_Part):
    """Whether a stream ends with the usage."""

    include_usage: bool = False


class ChatRequest(_Part):
    """The body of a request."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)  # OpenAI's newer name; it goes before the older one


def read_request(body: bytes) -> ChatRequest:
    """Raises ApiError for what is not a request, or asks for something that is not offered."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        names = [str(part) for part in first["loc"]]
        where = ".".join(name for name in names if name.isidentifier() or name.isdecimal())  # not pydantic's own types
        message = f"{where}: {first['msg']}" if where else first["msg"]
        raise ApiError(400, " ".join(message.split())[:300], param=where[:100] or None) from None
    for name, neutral in REFUSED.items():
        if (request.model_extra or {}).get(name) not in neutral:
            raise ApiError(400, f"{name}: not offered here; leave it out", code="unsupported_parameter", param=name)
    return request


def turns_of(messages: list[Message], max_length: int) -> tuple[list[Turn], str | None]:
    """The turns of a conversation, and its own system text. Pictures come first in their message, as in training.

    Raises:
        ApiError: the roles do not alternate, or there is more text than ``language.max_length`` tokens can be.
    """
    system, talk = None, messages
    if messages[0].role in ("system", "developer"):
        system, talk = messages[0].text(), messages[1:]
    roles = [message.role for message in talk]
    if len(talk) % 2 == 0 or roles != [("user", "assistant")[number % 2] for number in range(len(talk))]:
        order = "expected at most one system message, then user and assistant in turn, and the user's last"
        raise ApiError(400, f"messages: {order}", param="messages")
    if any(message.urls() for message in messages if message.role != "user"):
        raise ApiError(400, "messages: only a user's can have pictures", param="messages")
    if sum(len(message.text()) for message in messages) > CHARACTERS * max_length:
        raise too_long(f"more text than language.max_length ({max_length}) tokens")
    questions = [question_with_images(message.text(), len(message.urls())) for message in talk[::2]]
    answers = [message.text() for message in talk[1::2]]
    return [Turn(question, answer) for question, answer in zip(questions, [*answers, None], strict=True)], system


def urls_of(messages: list[Message], max_length: int, image_context_length: int) -> list[str]:
    """The addresses of a conversation's pictures, in order.

    Raises:
        ApiError: more than PICTURES, or than there is room for.
    """
    urls = [url for message in messages for url in message.urls()]
    most = min(PICTURES, max_length // max(1, image_context_length))
    if len(urls) > most:
        raise too_long(f"{len(urls)} pictures, and this model has room for {most}")
    return urls


def generate_of(request: ChatRequest, generate: Generate) -> Generate:
    """How the answer is decoded: as the run's config has it, with what the request says.

    Raises:
        ApiError: values that do not go together.
    """
    changes: dict[str, Any] = {}
    if request.temperature is not None:
        changes["do_sample"] = request.temperature >= COLDEST
        if changes["do_sample"]:
            changes["temperature"] = request.temperature
    if request.top_p is not None:
        changes["top_p"] = request.top_p
    if request.seed is not None:
        changes["seed"] = request.seed % 2**32
    if request.stop is not None:
        changes["stop_strings"] = request.stop
    if (tokens := request.max_completion_tokens or request.max_tokens) is not None:
        changes["max_new_tokens"] = tokens
    try:
        return change_generate(generate, changes)
    except UserError as error:
        raise ApiError(400, str(error)) from None


def too_long(message: str) -> ApiError:
    """What OpenAI's clients know as a conversation that does not fit."""
    return ApiError(400, message, code="context_length_exceeded", param="messages")


# ---------------------------------------------------------------------------------------------- replies


class Reply:
    """The objects of one reply: whole, or in chunks."""

    def __init__(self, model: str) -> None:
        self.model, self.id, self.created = model, f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, text: str, end: Finished) -> dict[str, Any]:
        """A chat.completion."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(end)}

    def chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A chat.completion.chunk."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage(self, end: Finished) -> dict[str, Any]:
        """The chunk after the last one, if it was asked for."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(end)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(end: Finished) -> dict[str, Any]:
    """Tokens; those of pictures are among the prompt's."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": end.cached_tokens},
    }


def model_object(name: str, created: int) -> dict[str, Any]:
    """An entry of /v1/models."""
    return {"id": name, "object": "model", "created": created, "owned_by": "local"}
