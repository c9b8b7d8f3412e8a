"""The server in this process, at a free port, and questions for its engine."""

from __future__ import annotations

import base64
import contextlib
import io
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from answering.assistant import Assistant
from answering.serving.engine import Engine, Failed, Finished, Picture, Question
from answering.serving.pictures import FetchLimits, Pictures
from dataset.prompt import Request
from settings import change_generate

MIB = 2**20


def question_for(assistant: Assistant, request: Request, streams: bool = False, **changes: Any) -> Question:
    """A request as a question; what is delivered goes into its ``events``."""
    pixels = assistant._pixels(request.images)
    pictures = [Picture(image.tobytes().hex(), one) for image, one in zip(request.images, pixels, strict=True)]
    events: queue.Queue[str | Finished | Failed] = queue.Queue()
    generate = change_generate(assistant.config.generate, changes)
    system = assistant.config.language.system if request.system is None else request.system
    question = Question(request.turns, pictures, system, generate, threading.Event(), events.put, streams)
    question.events = events
    return question


def answer_to(question: Question, pieces: list[str] | None = None) -> tuple[str, Finished | Failed]:
    """The whole answer, and how it ended; the pieces are added to ``pieces``."""
    pieces = [] if pieces is None else pieces
    while isinstance(event := question.events.get(timeout=60), str):
        pieces.append(event)
    return "".join(pieces), event


class Server:
    """A server that runs in a thread. ``url`` ends in /v1."""

    def __init__(self, assistant: Assistant, **options: Any) -> None:
        uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
        pytest.importorskip("fastapi", reason="fastapi is not installed")
        from answering.serving.app import Limits, Service, build_app

        limits = {"questions": 16, "seconds": 60.0, "body": MIB} | options.pop("limits", {})
        private = options.pop("private", False)
        self.engine = Engine(assistant, options.pop("prefix_bytes", 64 * MIB))
        pictures = Pictures(assistant.image_processor, 1_000_000, FetchLimits(MIB, seconds=5.0, private=private))
        service = Service(self.engine, pictures, "tiny", Limits(**limits), **options)
        self._clients: dict[str, Any] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        config = uvicorn.Config(
            build_app(service), log_level="critical", ws="none", lifespan="off", http="h11", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive() and self.engine.close(30)

    def client(self, **options: Any) -> Any:
        """OpenAI's own client, without retries; the same one for the same options."""
        openai = pytest.importorskip("openai", reason="openai is not installed")
        options = {"api_key": "none", "max_retries": 0, "timeout": 60.0} | options
        key = repr(options)
        if key not in self._clients:
            self._clients[key] = openai.OpenAI(base_url=self.url, **options)
        return self._clients[key]


@contextlib.contextmanager
def serving(assistant: Assistant, **options: Any) -> Iterator[Server]:
    """A :class:`Server` that is closed at the end."""
    server = Server(assistant, **options)
    try:
        yield server
    finally:
        server.close()


def data_url(image: Image.Image) -> str:
    """A picture as an address."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def message(text: str, *urls: str) -> dict[str, Any]:
    """A user's message; the pictures come after the text, as in OpenAI's examples."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [{"type": "text", "text": text}, *pictures]}
