"""The HTTP layer: /v1/chat/completions, /v1/models and /health, with errors in OpenAI's form.

:class:`Gate` is around everything: it asks for the key, limits bodies and the number of questions, and sees when a
client goes. What it lets in is FastAPI's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from answering.serving.engine import Engine, Failed, Finished, Picture, Question
from answering.serving.pictures import Pictures
from answering.serving.protocol import (
    ApiError,
    ChatRequest,
    Reply,
    generate_of,
    model_object,
    read_request,
    too_long,
    turns_of,
    urls_of,
)
from dataset.image import ImageError

FETCHING = 16  # pictures that are fetched at once, most of the time waiting
DECODING = 2  # and that are decoded at once: one may take 200 MB while it is
STATUS = {"user": 400, "memory": 503, "unexpected": 500}


@dataclass(frozen=True)
class Limits:
    """Of requests: ``questions`` at once, waiting ones included; ``seconds`` for one; ``body`` in bytes."""

    questions: int
    seconds: float
    body: int


@dataclass(frozen=True)
class Service:
    """What is served: the engine, its pictures, the model's name, an optional key, and the limits."""

    engine: Engine
    pictures: Pictures
    name: str
    limits: Limits
    key: str | None = None
    local: bool = True  # only this machine can connect


def build_app(service: Service) -> Any:
    """The ASGI application."""
    app = FastAPI(title="ask a picture", docs_url=None, redoc_url=None, openapi_url=None)
    started, reader = int(time.time()), Reader(service.pictures)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = read_request(await request.body())
        if asked.model != service.name:
            raise ApiError(404, f"model: {asked.model[:100]}: not here; it is {service.name}", code="model_not_found")
        try:
            async with asyncio.timeout_at(request.state.end):
                question = await question_of(service, asked, request.state.gone, reader)
        except TimeoutError:
            raise late(service) from None
        events = answers(service, question, request.state.end)
        first = await anext(events)  # an error before the first piece has a status of its own
        reply = Reply(service.name)
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            return StreamingResponse(sent(reply, first, events, usage), media_type="text/event-stream")
        text = ""
        while isinstance(first, str):
            text, first = text + first, await anext(events)
        return JSONResponse(reply.whole(text, first))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_object(service.name, started)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != service.name:
            raise ApiError(404, f"no model {name[:100]} here; it is {service.name}", code="model_not_found")
        return model_object(service.name, started)

    @app.get("/health")
    async def health() -> Response:
        alive = service.engine.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error_reply(error)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return error_reply(ApiError(500, "the server failed; its log says why", "server_error"))

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        return error_reply(ApiError(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}"))

    return Gate(app, service)


class Reader:
    """Reads pictures in other threads. A slow address makes nobody wait for the decoding of another picture."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self._fetching = ThreadPoolExecutor(FETCHING)
        self._decoding = ThreadPoolExecutor(DECODING)

    async def __call__(self, url: str) -> Picture:
        """Raises ImageError."""
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(self._fetching, self.pictures.read, url)
        return await loop.run_in_executor(self._decoding, self.pictures.prepare, content)


async def question_of(service: Service, asked: ChatRequest, gone: threading.Event, reader: Reader) -> Question:
    """The question that a request asks, without a way to deliver.

    Raises:
        ApiError: something of it cannot be used.
    """
    config = service.engine.assistant.config
    generate = generate_of(asked, config.generate)
    turns, system = turns_of(asked.messages, config.language.max_length)
    pictures = []
    for url in urls_of(asked.messages, config.language.max_length, config.vision.image_context_length):
        try:
            pictures.append(await reader(url))
        except ImageError as error:
            message = f"picture {len(pictures) + 1}: {error}"
            raise ApiError(400, message, code="invalid_image", param="messages") from None
    system = config.language.system if system is None else system
    return Question(turns, pictures, system, generate, gone, lambda event: None, bool(asked.stream))


async def answers(service: Service, question: Question, end: float) -> AsyncIterator[str | Finished]:
    """Pieces of the answer, and how it ended. The question is asked when the first is waited for.

    Raises:
        ApiError: it has no answer, or not in time.
    """
    events: asyncio.Queue[str | Finished | Failed] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def deliver(event: str | Finished | Failed) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
            loop.call_soon_threadsafe(events.put_nowait, event)

    question.deliver = deliver
    service.engine.ask(question)
    while True:
        try:
            async with asyncio.timeout_at(end):
                event = await events.get()
        except TimeoutError:
            raise late(service) from None
        if isinstance(event, Failed):
            if event.kind == "user" and "too long" in event.text:
                raise too_long(event.text)
            kind = "invalid_request_error" if event.kind == "user" else "server_error"
            raise ApiError(STATUS[event.kind], event.text, kind)
        yield event
        if isinstance(event, Finished):
            return


async def sent(
    reply: Reply, first: str | Finished, events: AsyncIterator[str | Finished], usage: bool
) -> AsyncIterator[str]:
    """A stream of server-sent events. An error after the first piece is an event too."""
    yield line(reply.chunk({"role": "assistant", "content": ""}))
    try:
        while isinstance(first, str):
            yield line(reply.chunk({"content": first}))
            first = await anext(events)
        yield line(reply.chunk({}, first.reason))
        if usage:
            yield line(reply.usage(first))
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield line(error.body())


def line(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def error_reply(error: ApiError) -> JSONResponse:
    """With a header for how long to wait where that helps."""
    return JSONResponse(error.body(), error.status, {"Retry-After": "1"} if error.status == 503 else None)


def late(service: Service) -> ApiError:
    """The server had too much to do, or the client sent too slowly."""
    return ApiError(504, f"no answer within {service.limits.seconds:g} s", "server_error", "timeout")


# ---------------------------------------------------------------------------------------------- around FastAPI


class Gate:
    """Lets requests in: with the key, of a size that is allowed, and as many at once as are allowed.

    Sets ``state.end``, the loop's time at which a request has had its time, and ``state.gone``, an event that is set
    when it is over for any reason.
    """

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service
        self.inside = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        limits, gone = self.service.limits, threading.Event()
        end = asyncio.get_running_loop().time() + limits.seconds
        self.inside += 1
        try:
            self._check(scope, headers)
            async with asyncio.timeout_at(end):
                body = await self._read(headers, receive)
            scope["state"] = {"gone": gone, "end": end}
            await self._run(scope, body, receive, send)
        except ApiError as error:
            await error_reply(error)(scope, receive, send)
        except TimeoutError:
            await error_reply(late(self.service))(scope, receive, send)
        finally:
            gone.set()
            self.inside -= 1

    def _check(self, scope: dict[str, Any], headers: dict[str, str]) -> None:
        """Raises ApiError for whom and what is not let in."""
        service = self.service
        if self.inside > service.limits.questions and scope["path"] != "/health":
            message = f"{self.inside - 1} questions are waiting; ask again later"
            raise ApiError(503, message, "server_error", "overloaded")
        if service.key is not None and scope["path"] != "/health":
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), service.key.encode()):
                raise ApiError(401, "the key is missing or wrong", "authentication_error", "invalid_api_key")
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if service.local and service.key is None and host not in ("127.0.0.1", "localhost", "[::1]"):
            raise ApiError(403, f"Host {host[:100]!r}: this server answers to 127.0.0.1 and localhost")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":  # else any web page could ask
            raise ApiError(415, "Content-Type: expected application/json")

    async def _read(self, headers: dict[str, str], receive: Any) -> bytes:
        """The body. Raises ApiError if it is too large, or does not come to its end."""
        most, parts, size = self.service.limits.body, [], 0
        announced = headers.get("content-length", "0")
        too_large = ApiError(413, f"the body has more than {most:,} bytes", code="request_too_large")
        if announced.isdecimal() and int(announced) > most:
            raise too_large
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the client went before its request was complete")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise too_large
            if not message.get("more_body"):
                return b"".join(parts)

    async def _run(self, scope: dict[str, Any], body: bytes, receive: Any, send: Any) -> None:
        """Run the application until it has replied, or the client goes."""
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> dict[str, Any]:
            if not messages:
                await asyncio.Event().wait()  # the client is watched here
            return messages.pop()

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = [asyncio.create_task(self.app(scope, replay, send)), asyncio.create_task(left())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
