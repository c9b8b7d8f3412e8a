"""A model that an OpenAI-compatible server runs: vLLM, SGLang, llama.cpp, Ollama or a hosted API.

The key is read from the environment (OPENAI_API_KEY) and is written nowhere. It goes to the server that was named and
to no other: redirects are not followed.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from common.errors import UserError
from dataset.prompt import Request, without_thoughts
from evaluation.messages import Message, messages_of
from settings import Generate

KEY = "OPENAI_API_KEY"
TRIES = 6  # with pauses of 1, 2, 4, 8 and 16 s between them: a server that restarts is waited for
LONGEST_PAUSE = 60.0  # seconds, also where the server asks for more
PATIENCE = 300.0  # seconds for one answer: a busy server queues requests
REFUSED = {400, 413, 422}  # the question is at fault, such as one that is too long
WRONG = {401, 403, 404}  # all questions would get the same reply
# What the protocol has no field for, with the value that changes nothing.
UNKNOWN = {"min_new_tokens": 0, "top_k": None, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


class ServerFailed(Exception):
    """The server cannot be reached or answers nothing; what was answered before is kept."""


class Endpoint:
    """Asks ``model`` of the server at ``url``, such as http://127.0.0.1:8000/v1. ``tokens`` counts what was used."""

    def __init__(self, url: str, model: str, system: str = "", pause: float = 1.0) -> None:
        self.url, self.model, self.system, self.pause = url.rstrip("/"), model, system, pause
        self.tokens = {"prompt": 0, "completion": 0}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._kept: dict[int, tuple[Request, str | UserError]] = {}  # of a refused batch: it is asked again one by one
        local = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
        proxy = [urllib.request.ProxyHandler({})] if local else []
        self._open = urllib.request.build_opener(*proxy, _NoRedirects).open

    @property
    def device(self) -> str:
        return self.url

    def answer(self, requests: list[Request], **options) -> list[str]:
        """Answers to requests, in order; all are asked at once, so ``generate.batch_size`` limits how many that are.

        Raises:
            UserError: the server refuses a question.
            ServerFailed: it cannot be reached, or does not answer after TRIES tries.
        """
        generate = Generate(**options)
        if len(requests) > 1:
            self._kept = {}

        def ask(request: Request) -> str | UserError:
            kept = self._kept.pop(id(request), None)
            return kept[1] if kept else self._ask(request, generate)

        with ThreadPoolExecutor(max_workers=max(1, len(requests))) as pool:
            try:
                found = list(pool.map(ask, requests))
            except BaseException:
                self._stop.set()  # ends the pauses of the others
                raise
        refused = next((answer for answer in found if isinstance(answer, UserError)), None)
        if refused is not None:
            if len(requests) > 1:
                self._kept = {id(request): (request, answer) for request, answer in zip(requests, found, strict=True)}
            raise refused
        return [str(answer) for answer in found]

    def _ask(self, request: Request, generate: Generate) -> str | UserError:
        messages = [plain(message) for message in messages_of(request, self.system, picture_part)]
        body = {"model": self.model, "messages": messages, **arguments_of(generate)}
        try:
            reply = self._post(body)
        except UserError as error:
            return error
        try:
            text = without_thoughts(reply["choices"][0]["message"]["content"] or "").strip()
            used = reply.get("usage") or {}
            with self._lock:
                self.tokens["prompt"] += int(used.get("prompt_tokens") or 0)
                self.tokens["completion"] += int(used.get("completion_tokens") or 0)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerFailed(f"{self.url} answers in another form than OpenAI's: {str(reply)[:200]}") from error
        return text

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = json.dumps(body).encode()
        for number in range(TRIES):
            asked = urllib.request.Request(f"{self.url}/chat/completions", data, headers)
            wanted = 0.0
            try:
                with self._open(asked, timeout=PATIENCE) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {error.reason}: {said_by(error)}"
                if error.code in REFUSED:
                    raise UserError(f"the server refuses the question ({problem})") from None
                if error.code in WRONG or error.code < 400:
                    raise ServerFailed(f"{self.url}: {problem}; look at --endpoint, --model and {KEY}") from None
                wanted = seconds(error.headers.get("Retry-After"))
            except (OSError, HTTPException, ValueError) as error:
                problem = str(getattr(error, "reason", None) or error or type(error).__name__)
            spread = random.uniform(0.75, 1.25)  # so that not all come back at once
            pause = max(wanted, self.pause * 2**number * spread)
            if number == TRIES - 1 or self._stop.wait(min(pause, LONGEST_PAUSE)):
                break
        raise ServerFailed(f"{self.url} does not answer after {number + 1} tries ({problem})")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def check_endpoint(url: str, generate: Generate) -> None:
    """Raises UserError for an address that is none or holds a password, and for settings that a server has not."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--endpoint {url}: expected an address such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query:
        raise UserError(f"--endpoint: an address without a name, password or query; put the key into {KEY}")
    for name, neutral in UNKNOWN.items():
        if (value := getattr(generate, name)) != neutral:
            raise UserError(
                f"generate.{name} = {value}: servers have no such setting; add generate.{name}={json.dumps(neutral)}"
            )


def arguments_of(generate: Generate) -> dict[str, Any]:
    """The fields of the protocol for how answers are decoded."""
    fields: dict[str, Any] = {"max_tokens": generate.max_new_tokens, "temperature": 0.0}
    if generate.do_sample:
        fields |= {"temperature": generate.temperature, "top_p": generate.top_p}
    if generate.stop_strings:
        fields["stop"] = generate.stop_strings
    if generate.seed is not None:
        fields["seed"] = generate.seed
    return fields


def plain(message: Message) -> Message:
    """A message of text alone with that text as its content: not every server takes parts for every role."""
    parts = message["content"]
    return {**message, "content": parts[0]["text"]} if [part["type"] for part in parts] == ["text"] else message


def picture_part(image: Image.Image) -> dict[str, Any]:
    """A picture as PNG, so that nothing is lost of it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": address}}


def said_by(error: urllib.error.HTTPError) -> str:
    """What the body of an error says, in one line and without the key, which some servers repeat."""
    try:
        text = error.read(10_000).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
    key = os.environ.get(KEY)
    return " ".join((text.replace(key, "[key]") if key else text).split())[:200]


def seconds(header: str | None) -> float:
    """Of a Retry-After header; 0 if there is none, or if it is a date."""
    return float(header) if header and header.isdecimal() else 0.0
