"""The server with OpenAI's own client: answers, streams, limits, the key, clients that go, and hostile requests."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest

from answering.assistant import Assistant
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.serving import Server, data_url, message, serving
from tests.helpers.tiny import never_ends, picture

CASES = 10_000 if os.environ.get("VLM_SOAK") else 300
QUESTIONS = ["What color?", "which shape is it, and where?", "图中有几个图形？", "请描述这张图片。"]
COLORS = ["red", "blue"]


@pytest.fixture(scope="module")
def server(whole):
    with serving(whole) as server:
        yield server


def ask(server: Server, text: str, *urls: str, **options: Any) -> Any:
    return server.client().chat.completions.create(model="tiny", messages=[message(text, *urls)], **options)


def post(server: Server, body: bytes | str, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
    """The status and the JSON of the reply."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    return reply.status, content


def body(text: str = "What color?", **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [message(text, data_url(picture("red")))], **fields}


def test_eight_clients_at_once_get_the_answers_of_the_checkpoint_alone(whole, server):
    pairs = [(color, text) for text in QUESTIONS for color in COLORS]
    asked = [Request([Turn(question_with_images(text, 1))], [picture(color)]) for color, text in pairs]
    wanted = [whole.answer([request])[0] for request in asked]
    ready = threading.Barrier(len(pairs))

    def one(color: str, text: str) -> str:
        ready.wait(60)
        return ask(server, text, data_url(picture(color))).choices[0].message.content

    with ThreadPoolExecutor(len(pairs)) as pool:
        assert list(pool.map(one, *zip(*pairs, strict=True))) == wanted
    assert len(set(wanted)) > 4


def test_a_stream_joins_to_the_whole_answer_and_ends_with_the_usage(whole, server):
    url, options = data_url(picture("blue")), {"max_tokens": 20}
    answer = ask(server, "What color?", url, **options)
    *chunks, usage = ask(server, "What color?", url, stream=True, stream_options={"include_usage": True}, **options)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    request = Request([Turn(question_with_images("What color?", 1))], [picture("blue")])
    assert ["".join(pieces)] == [answer.choices[0].message.content] == whole.answer([request], max_new_tokens=20)
    assert sum(map(bool, pieces)) > 2 and chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason
    counts = answer.usage.prompt_tokens, answer.usage.completion_tokens
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == counts
    assert counts[0] == len(whole._prompt(request)) and not usage.choices
    plain = list(ask(server, "What color?", url, stream=True, **options))
    assert all(chunk.choices and chunk.usage is None for chunk in plain)


def test_conversations_system_messages_several_pictures_and_settings_reach_the_model(whole, server):
    url = [data_url(picture(color)) for color in COLORS]
    talk = [
        {"role": "system", "content": "Be brief."},
        message("Which is red?", *url),
        {"role": "assistant", "content": "the first"},
        {"role": "user", "content": "And the other?"},
    ]
    turns = [Turn(question_with_images("Which is red?", 2), "the first"), Turn("And the other?")]
    request = Request(turns, [picture(color) for color in COLORS], "Be brief.")
    create = server.client().chat.completions.create
    hot = {"do_sample": True, "temperature": 2.0, "top_p": 0.9, "seed": 5}
    answer = create(model="tiny", messages=talk, temperature=2.0, top_p=0.9, seed=5, max_completion_tokens=9)
    assert answer.choices[0].message.content
    assert [answer.choices[0].message.content] == whole.answer([request], max_new_tokens=9, **hot)


def test_a_stop_string_ends_the_answer(whole, server):
    request = Request([Turn(question_with_images("What color?", 1))], [picture("blue")])
    (greedy,) = whole.answer([request], max_new_tokens=20)
    stop = greedy[len(greedy) // 2 :][:2]
    answer = ask(server, "What color?", data_url(picture("blue")), max_tokens=20, stop=stop, temperature=0)
    assert [answer.choices[0].message.content] == whole.answer([request], max_new_tokens=20, stop_strings=[stop])
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content != greedy


def test_models_and_health(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny"] == [client.models.retrieve("tiny").id]
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/health")
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())) == (200, {"status": "ok"})


def test_errors_are_the_clients_own_exceptions(server):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with pytest.raises(openai.NotFoundError, match="not here; it is tiny"):
        server.client().chat.completions.create(model="gpt", messages=[message("?")])
    with pytest.raises(openai.NotFoundError, match="no model gpt here"):
        server.client().models.retrieve("gpt")
    for options, code, text in (
        ({"max_tokens": 100_000}, "context_length_exceeded", "too long"),
        ({"max_tokens": 100_000, "stream": True}, "context_length_exceeded", "too long"),
        ({"n": 2}, "unsupported_parameter", "n: not offered here"),
        ({"temperature": 3}, None, "temperature: "),
    ):
        with pytest.raises(openai.BadRequestError, match=text) as refused:
            ask(server, "?", **options)
        assert refused.value.code == code and refused.value.type == "invalid_request_error"
    for url, text in (
        ("data:image/png;base64,aGk=", "picture 1: cannot be decoded: not an image"),
        ("file:///etc/passwd", "picture 1: expected a data: URL, or an address"),
        (f"http://127.0.0.1:{server.port}/health", "picture 1: an address of this machine or its network"),
    ):
        with pytest.raises(openai.BadRequestError, match=text) as refused:
            ask(server, "?", url)
        assert refused.value.code == "invalid_image"


def test_what_a_web_page_could_send_is_refused(server):
    assert post(server, json.dumps(body()), **{"Content-Type": "text/plain"})[0] == 415
    status, reply = post(server, json.dumps(body()), Host="evil.example")
    assert status == 403 and "this server answers to 127.0.0.1 and localhost" in reply["error"]["message"]
    assert post(server, json.dumps(body()), Host=f"localhost:{server.port}")[0] == 200
    assert post(server, "{}", "/v1/completions")[1]["error"]["message"] == "POST /v1/completions: Not Found"


def test_the_key_is_asked_for_everywhere_but_at_health(whole):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with serving(whole, key="secret") as server:
        assert post(server, json.dumps(body()), Authorization="Bearer secret", Host="any.example")[0] == 200
        for key in ("", "secre", "secrets", "Bearer", "geheim\xe4"):
            status, reply = post(server, json.dumps(body()), Authorization=f"Bearer {key}".encode("latin-1"))
            assert (status, reply["error"]["code"]) == (401, "invalid_api_key"), key
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="wrong").models.list()
        assert [model.id for model in server.client(api_key="secret").models.list()] == ["tiny"]
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200


class Held:
    """The model stops at its third step until ``go`` is set; ``steps`` counts."""

    def __init__(self, assistant: Assistant) -> None:
        self.steps, self.reached, self.go = 0, threading.Event(), threading.Event()
        never_ends(assistant)
        assistant.model.language.register_forward_hook(self._step)

    def _step(self, *call: Any) -> None:
        self.steps += 1
        if self.steps == 4:  # after the prefix
            self.reached.set()
            assert self.go.wait(60)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_vanishes_frees_the_worker(assistant, stream):
    held = Held(assistant)
    with serving(assistant) as server:
        content = json.dumps(body(max_tokens=3000, stream=stream)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
            assert held.reached.wait(60)
            (question,) = server.engine._running
        assert question.stop.wait(60)  # the server has seen it go
        held.go.set()
        assert ask(server, "where?", max_tokens=2).usage.completion_tokens == 2
        assert held.steps < 12


def test_more_questions_than_allowed_and_too_slow_ones_are_refused(assistant):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    held = Held(assistant)
    with serving(assistant, limits={"questions": 1, "seconds": 60.0}) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, server, "What color?", data_url(picture("red")), max_tokens=5)
        assert held.reached.wait(60)
        with pytest.raises(openai.InternalServerError, match="1 questions are waiting; ask again later") as refused:
            ask(server, "What color?")
        assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"] == "1"
        held.go.set()
        assert first.result(60).usage.completion_tokens == 5
    held = Held(assistant)
    with serving(assistant, limits={"seconds": 0.5}) as server:
        with pytest.raises(openai.InternalServerError, match="no answer within 0.5 s") as late:
            ask(server, "What color?", data_url(picture("red")), max_tokens=3000)
        assert late.value.status_code == 504 and held.reached.is_set()
        held.go.set()


def test_a_body_that_is_too_large_is_not_read(whole):
    with serving(whole, limits={"body": 1000}) as server:
        status, reply = post(server, b" " * 1001)
        assert (status, reply["error"]["code"]) == (413, "request_too_large")
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        chunks = iter([b" " * 600] * 2)
        connection.request("POST", "/v1/chat/completions", chunks, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 413


# ---------------------------------------------------------------------------------------------- hostile requests

ODD = [None, True, 0, -1, 1e308, 10**40, "", "a", "\x00", "\u202e中文\ufeff", "<|im_end|>", "<image>", [], {}, [[]]]
ODD += ["x" * 5000, "data:", "data:;base64,", "http://[", "file:///etc/passwd", "http://127.0.0.1:1/", {"type": "text"}]
BITS = [b"", b"\xff", b"[" * 2000, b"\\ud800", b"NaN", b"9" * 5000]
HEADERS = ["Transfer-Encoding: chunked", "A: " + "b" * 100_000, "A: b\r\n" * 500 + "A: b", "\x00"]
NAMES = ["stream", "stop", "seed", "temperature", "top_p", "max_tokens", "n", "tools", "stream_options", "other"]
ODD += [{"role": "user"}, ["\n"], -0.0, 2**64, "system", "user", "assistant", "image_url", "text", " ", "\\ud800"]


def odd_value(rng: random.Random, value: Any) -> Any:
    """The same value, with something in it replaced, left out, repeated or added."""
    if isinstance(value, dict) and rng.random() < 0.8:
        changed = {key: odd_value(rng, item) if rng.random() < 0.4 else item for key, item in value.items()}
        if changed and rng.random() < 0.2:
            del changed[rng.choice(list(changed))]
        if rng.random() < 0.2:
            changed[rng.choice(NAMES)] = rng.choice(ODD)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        return [odd_value(rng, item) for item in value for _ in range(rng.choice([1, 1, 1, 0, 2]))]
    return rng.choice([value, rng.choice(ODD)])


def hostile(rng: random.Random, good: dict[str, Any]) -> tuple[bytes, bool]:
    """A request over HTTP: a body that is nearly right, with bytes flipped and cut, under headers that may lie.

    And whether the server may wait for more of it.
    """
    asked = odd_value(rng, good) if rng.random() < 0.85 else good
    content = json.dumps(asked, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
    data = bytearray(content)
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.choice([0, 1, 50])] = rng.choice(BITS)
    size = rng.choice([*[str(len(data))] * 12, "-1", "x", "99999999999", str(len(data) // 2), "1e3"])
    kind = rng.choice([*["application/json"] * 12, "text/plain", "", "multipart/form-data; boundary=x"])
    line = rng.choice([*["POST /v1/chat/completions"] * 12, "GET /v1/chat/completions", "PUT /", "POST /%00/..", "X"])
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {size}"
    if odd := rng.random() < 0.05:
        head += "\r\n" + rng.choice(HEADERS)
    request = head.encode("latin-1") + b"\r\n\r\n" + bytes(data)
    if cut := rng.random() < 0.05:
        request = request[: rng.randrange(len(request))]
    return request, odd or cut


def test_hostile_requests_get_an_error_in_openais_form_and_the_server_goes_on(whole):
    good = body(max_tokens=1, stream=False, stop=["\n"], seed=1, temperature=1.0, top_p=0.5)
    request = Request([Turn(question_with_images("What color?", 1))], [picture("red")])
    statuses: dict[int, int] = {}

    def case(seed: int) -> int:
        rng = random.Random(seed)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            try:
                content, open_ended = hostile(rng, good)
                client.sendall(content)
                if open_ended:
                    client.shutdown(socket.SHUT_WR)
                reply = b"".join(iter(lambda: client.recv(65536), b""))
            except (ConnectionError, HTTPException):
                return 0
        head, _, content = reply.partition(b"\r\n\r\n")
        if not head:
            return 0  # the request was not complete
        status = int(head.split()[1])
        assert b"Traceback" not in content, f"seed {seed}"
        if content.startswith(b"{"):
            told = json.loads(content)
            assert ("error" in told) == (status != 200), f"seed {seed}"
            assert status == 200 or set(told["error"]) == {"message", "type", "param", "code"}, f"seed {seed}"
        assert status != 500, f"seed {seed}: {content[:300]!r}"
        return status

    with serving(whole) as server:
        with ThreadPoolExecutor(4) as pool:
            for status in pool.map(case, range(CASES)):
                statuses[status] = statuses.get(status, 0) + 1
        answer = ask(server, "What color?", data_url(picture("red")))
        assert [answer.choices[0].message.content] == whole.answer([request])
    assert statuses[200] > CASES / 20 and statuses[400] > CASES / 5, statuses
    print(statuses)
