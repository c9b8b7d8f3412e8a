"""A small server on 127.0.0.1: what it is sent, retries, refusals, the limit, and that no key is written."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

import evaluate
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from evaluation.endpoint import KEY, Endpoint, ServerFailed, check_endpoint
from settings import Generate
from tests.helpers.evaluating import color_of, looks

SECRET = "sk-very-secret-1234"


class Server:
    """Answers ``reply(question, colours)``; ``faults`` are (status, headers) given before the first answers."""

    def __init__(self) -> None:
        self.reply: Callable[[str, list[str]], str] = looks
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.refuses: str | None = None
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *args) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def handle(self, asked: BaseHTTPRequestHandler) -> None:
        body = json.loads(asked.rfile.read(int(asked.headers["Content-Length"])))
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.keys.add(asked.headers.get("Authorization"))
            fault = self.faults.pop(0) if self.faults else None
        time.sleep(self.seconds)
        question, colors = read(body)
        if fault is None and self.refuses and self.refuses in question:
            fault = (400, {})
        content = {"error": f"not now, {self.keys}"}
        if fault is None:
            self.bodies.append(body)
            message = {"role": "assistant", "content": self.reply(question, colors)}
            content = {"choices": [{"message": message}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
        with self.lock:
            self.at_once -= 1
        asked.send_response(fault[0] if fault else 200)
        for name, value in (fault[1] if fault else {}).items():
            asked.send_header(name, value)
        asked.end_headers()
        asked.wfile.write(json.dumps(content).encode())


def read(body: dict) -> tuple[str, list[str]]:
    """The last question of a request, and the colours of its pictures."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content, []
    data = [part["image_url"]["url"].partition(",")[2] for part in content if part["type"] == "image_url"]
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in data]
    return next(part["text"] for part in content if part["type"] == "text"), [color_of(image) for image in images]


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.delenv(KEY, raising=False)
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def request(text: str, *colors: tuple[int, int, int]) -> Request:
    return Request([Turn(question_with_images(text, len(colors)))], [Image.new("RGB", (4, 4), c) for c in colors])


RED, BLUE = (200, 0, 0), (0, 0, 200)


def test_questions_and_pictures_arrive_as_they_are(server):
    endpoint = Endpoint(server.url, "some-model", system="Be brief.")
    asked = [request("What color is it?", RED), request("What color is it?", BLUE), request("What color is it?")]
    options = Generate(max_new_tokens=7, stop_strings=["\n"], seed=3).model_dump(exclude={"batch_size"})
    assert endpoint.answer(asked, **options) == ["red", "blue", "red"]
    body = next(body for body in server.bodies if isinstance(body["messages"][-1]["content"], list))
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {key: body[key] for key in body if key != "messages"} == {
        "model": "some-model",
        "max_tokens": 7,
        "temperature": 0.0,
        "stop": ["\n"],
        "seed": 3,
    }
    assert endpoint.tokens == {"prompt": 30, "completion": 6}
    endpoint.answer(asked[:1], do_sample=True, temperature=0.5, top_p=0.9)
    assert (server.bodies[-1]["temperature"], server.bodies[-1]["top_p"]) == (0.5, 0.9)


def test_a_busy_server_is_asked_again_and_what_it_asks_to_wait_is_waited(server, monkeypatch):
    server.faults = [(503, {}), (429, {"Retry-After": "7"}), (500, {"Retry-After": "999"}), (500, {})]
    endpoint, pauses = Endpoint(server.url, "m"), []
    monkeypatch.setattr(endpoint._stop, "wait", pauses.append)
    assert endpoint.answer([request("What color is it?", RED)]) == ["red"]
    assert 0.75 <= pauses[0] <= 1.25 and pauses[1:3] == [7.0, 60.0] and 6.0 <= pauses[3] <= 10.0


def test_after_six_tries_the_server_has_failed(server):
    server.faults = [(500, {})] * 6
    with pytest.raises(ServerFailed, match=r"does not answer after 6 tries \(500 Internal Server Error: .*not now"):
        Endpoint(server.url, "m", pause=0.001).answer([request("What color is it?", RED)])
    assert server.faults == []


def test_a_server_that_is_not_there_has_failed():
    with pytest.raises(ServerFailed, match="127.0.0.1:9/v1 does not answer after 6 tries"):
        Endpoint("http://127.0.0.1:9/v1", "m", pause=0.001).answer([request("What color is it?", RED)])


@pytest.mark.parametrize(("status", "headers"), [(401, {}), (404, {}), (302, {"Location": "http://127.0.0.1:9/"})])
def test_a_wrong_key_name_or_address_ends_it_at_once(server, monkeypatch, status, headers):
    monkeypatch.setenv(KEY, SECRET)
    server.faults = [(status, headers)]
    with pytest.raises(ServerFailed, match=f"{status} .*look at --endpoint, --model and OPENAI_API_KEY") as raised:
        Endpoint(server.url, "m").answer([request("What color is it?", RED)])
    assert SECRET not in str(raised.value) and "[key]" in str(raised.value)  # the server repeats it


def test_a_refused_question_costs_the_others_nothing(server):
    server.refuses = "wide"
    endpoint = Endpoint(server.url, "m")
    asked = [request("What color is it?", RED), request("How wide?", RED), request("What color is it?", BLUE)]
    with pytest.raises(UserError, match="the server refuses the question \\(400 Bad Request"):
        endpoint.answer(asked)
    assert endpoint.answer(asked[:1]) == ["red"] and endpoint.answer(asked[2:]) == ["blue"]
    with pytest.raises(UserError, match="refuses"):
        endpoint.answer(asked[1:2])
    assert len(server.bodies) == 2


def test_another_form_of_reply_is_named(server):
    server.reply = lambda question, seen: {"text": "red"}  # type: ignore[return-value]
    with pytest.raises(ServerFailed, match="another form than OpenAI's"):
        Endpoint(server.url, "m").answer([request("What color is it?", RED)])


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("127.0.0.1:8000", {}, "expected an address such as http://127.0.0.1:8000/v1"),
        ("http://me:pass@host/v1", {}, "an address without a name, password or query; put the key into OPENAI_API_KEY"),
        ("https://host/v1", {"num_beams": 4}, "generate.num_beams = 4: servers have no such setting"),
        ("https://host/v1", {"top_k": 5}, "add generate.top_k=null"),
    ],
)
def test_what_no_server_can_do_is_said_before_anything_is_asked(url, options, message):
    with pytest.raises(UserError, match=message) as raised:
        check_endpoint(url, Generate(**options))
    assert "pass@" not in str(raised.value)


# ---------------------------------------------------------------------------------------------- evaluate.py


def run(data, server, *arguments: str) -> int:
    files = ["--image-map", str(data / "image_map.json"), "--annotations", str(data / "annotations.json")]
    command = ["--endpoint", server.url, "--model", "team/some-model", *files, "--split", "test"]
    return evaluate.main([*command, "--output", str(data / "result.json"), *arguments])


def test_an_evaluation_asks_a_limited_number_at_once_and_writes_the_same_result(data, server, monkeypatch, capsys):
    monkeypatch.setenv(KEY, SECRET)
    server.seconds = 0.005
    assert run(data, server, "generate.batch_size=4", "data.progress=false") == 0
    assert 2 <= server.most_at_once <= 4 and server.keys == {f"Bearer {SECRET}"}
    text = (data / "result.json").read_text(encoding="utf-8")
    result = json.loads(text)
    assert result["complete"] and result["answered"] == 36 and result["scores"]["overall"]["score"] == 1.0
    assert result["looks_at_the_picture"] is True and result["sight"] is None
    assert (result["checkpoint"], result["device"], result["system"]) == ("team/some-model", server.url, "")
    assert result["tokens"] == {"prompt": 960, "completion": 192}
    assert set(result["comparisons"]) == {"majority", "question_only", "other_picture", "no_picture"}
    printed = capsys.readouterr()
    assert "Cost: 960 prompt tokens and 192 completion tokens." in printed.out
    page = (data / "result.html").read_text(encoding="utf-8")
    assert "team / some-model" in page and SECRET not in page + text + printed.out + printed.err


def test_a_server_that_dies_costs_nothing_and_resume_asks_the_rest(data, server, monkeypatch, capsys):
    monkeypatch.setattr("evaluation.endpoint.TRIES", 1)
    asked = []

    def dies(question: str, seen: list[str]) -> str:
        asked.append(question)
        if len(asked) == 25:
            server.faults = [(500, {})] * 99
        return looks(question, seen)

    server.reply = dies
    assert run(data, server, "generate.batch_size=4") == 2
    assert "does not answer after 1 tries" in (error := capsys.readouterr().err) and "--resume asks the rest" in error
    left = json.loads((data / "result.json").read_text(encoding="utf-8"))
    assert left["complete"] is False and 24 <= left["answered"] <= 28
    server.faults = []
    assert run(data, server, "generate.batch_size=4", "--resume") == 0
    result = json.loads((data / "result.json").read_text(encoding="utf-8"))
    assert result["complete"] and result["scores"]["overall"]["score"] == 1.0
    assert result["tokens"] == {"prompt": 10 * len(asked), "completion": 2 * len(asked)} and len(asked) <= 96 + 4
