"""ask.py: the answer and nothing else on stdout, a conversation on the terminal, mistakes in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ask as ask_command
from answering import assistant as assistant_module
from benchmarks.start import start
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.asking import requests
from tests.helpers.tiny import REPO, picture


def ask(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "ask.py", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, encoding="utf-8", input=stdin)


def test_ask_prints_the_answer_and_nothing_else(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint.parent, "--image", tmp_path / "red.png", "What color?")
    (wanted,) = assistant.answer(requests()[:1])
    assert wanted and done.returncode == 0 and done.stdout == wanted + "\n", done.stderr


def test_ask_without_a_question_is_a_conversation(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint, "--image", tmp_path / "red.png", stdin="What color?\nand now?\n")
    first, image = question_with_images("What color?", 1), [picture("red")]
    (one,) = assistant.answer([Request([Turn(first)], image)])
    (two,) = assistant.answer([Request([Turn(first, one), Turn("and now?")], image)])
    assert one and two and one != two and done.returncode == 0 and done.stdout == f"{one}\n{two}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "{checkpoint}", "--image", "nowhere.png", "x"], "nowhere.png: "),
        (["--checkpoint", "{checkpoint}", "--image", "README.md", "x"], "README.md: "),
        (["--checkpoint", "no/such/folder", "--image", "{picture}", "x"], "no checkpoint at no"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "--device", "moon", "x"], "'moon' is not known"),
    ],
)
def test_ask_says_in_one_line_what_is_wrong(checkpoint, tmp_path, arguments, message):
    picture("red").save(tmp_path / "red.png")
    done = ask(*(a.format(checkpoint=checkpoint, picture=tmp_path / "red.png") for a in arguments))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], ""),
        (["--checkpoint", "no/such/folder", "--image", "{picture}", "x"], "error: no checkpoint at no"),
        (["--checkpoint", "{checkpoint}", "--image", "nowhere.png", "x"], "error: nowhere.png: missing"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "--device", "moon", "x"], "error: device 'moon'"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "--max-new-tokens", "0"], "usage: ask.py"),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(checkpoint, tmp_path, arguments, message):
    picture("red").save(tmp_path / "red.png")
    done = start("ask.py", [a.format(checkpoint=checkpoint, picture=tmp_path / "red.png") for a in arguments])
    assert done.stderr.startswith(message) and done.status == (2 if message else 0)
    assert done.imported == []


def test_verify_reads_all_files_again(checkpoint, tmp_path, monkeypatch, capsys):
    picture("red").save(tmp_path / "red.png")
    asked, load = [], assistant_module.load_undamaged
    keep = lambda *arguments, **options: asked.append(options["verify"]) or load(*arguments, **options)  # noqa: E731
    monkeypatch.setattr(assistant_module, "load_undamaged", keep)
    for options in ([], ["--verify"]):
        command = ["--checkpoint", str(checkpoint), "--image", str(tmp_path / "red.png"), "--device", "cpu", *options]
        assert ask_command.main([*command, "What color?"]) == 0
    assert asked == [False, True]
