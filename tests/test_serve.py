"""serve.py: its arguments, its key, and a server that a client asks; its mistakes are in tests/test_start.py."""

from __future__ import annotations

import socket
import threading

import pytest

import serve as command
from answering.assistant import Assistant
from common import optional
from common.errors import UserError
from tests.helpers.asking import requests
from tests.helpers.serving import data_url, message
from tests.helpers.tiny import picture


def test_a_server_answers_until_it_is_ended(checkpoint, assistant, monkeypatch, capsys):
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    openai = pytest.importorskip("openai", reason="openai is not installed")
    monkeypatch.setenv(command.KEY, "secret")
    monkeypatch.setattr(Assistant, "load", lambda *arguments, **options: assistant)
    answers = []

    def run(server, sockets):  # instead of uvicorn's own, which returns at Ctrl-C
        thread = threading.Thread(target=own_run, args=(server, sockets))
        thread.start()
        ready = capsys.readouterr().out.split()
        assert ready[0] == "ready" and ready[3:6] == ["test,", "on", "cpu;"]
        with openai.OpenAI(base_url=ready[1].rstrip(","), api_key="secret", max_retries=0) as client:
            asked = [message("What color?", data_url(picture("red")))]
            answers.append(client.chat.completions.create(model="test", messages=asked).choices[0].message.content)
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()

    own_run = uvicorn.Server.run
    monkeypatch.setattr(uvicorn.Server, "run", run)
    assert command.main(["--checkpoint", str(checkpoint), "--device", "cpu", "--port", "0"]) == 0
    assert answers == assistant.answer(requests()[:1]) and answers[0]
    assert capsys.readouterr() == ("", "")


def test_packages_that_are_not_there_are_named_first(monkeypatch, capsys):
    monkeypatch.setattr(optional, "is_installed", lambda package: False)
    assert command.main(["--checkpoint", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: serve.py: needs fastapi and uvicorn; pip install fastapi uvicorn\n"


def test_mistakes_are_one_line(checkpoint, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(optional, "is_installed", lambda package: True)
    monkeypatch.delenv(command.KEY, raising=False)
    (tmp_path / "key").write_text("two words", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for options, text in (
            (["generate.num_beams=2"], "generate.num_beams = 2: not served; add generate.num_beams=1"),
            (["train.seed=2"], "train.seed=2: only generate.KEY=VALUE and data.max_pixels=N can be changed"),
            (["--key-file", str(tmp_path / "none")], "cannot be read"),
            (["--key-file", str(tmp_path / "key")], "expected a key of printable ASCII characters without blanks"),
            (["--port", str(taken.getsockname()[1])], "cannot be used (Address already in use)"),
            (["--host", "256.1.1.1"], "--host 256.1.1.1 --port 8000: cannot be used"),
        ):
            assert command.main(["--checkpoint", str(checkpoint), *options]) == 2
            said = capsys.readouterr().err
            assert said.startswith("error: ") and text in said and len(said.splitlines()) == 1


def test_the_key_is_of_a_file_or_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(command.KEY, raising=False)
    assert command.read_key(None) is None
    monkeypatch.setenv(command.KEY, "from-environment")
    (tmp_path / "key").write_text("from-file\n", encoding="utf-8")
    assert command.read_key(None) == "from-environment" and command.read_key(tmp_path / "key") == "from-file"
    monkeypatch.setenv(command.KEY, "")
    with pytest.raises(UserError, match=f"{command.KEY}: expected a key"):
        command.read_key(None)


@pytest.mark.parametrize("options", [["--queue", "0"], ["--seconds", "0"], ["--port", "65536"], ["--prefix-mib", "x"]])
def test_wrong_numbers_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        command.parse_arguments(["--checkpoint", "a", *options])
    assert options[0] in capsys.readouterr().err
