"""Text from outside: halves of characters become U+FFFD and are counted, everything else stays as it was."""

from __future__ import annotations

import importlib
import io
import os
import sys

import pytest

from common.text import can_print, from_command_line, prepare_console, whole


@pytest.mark.parametrize(
    ("text", "wanted", "replaced"),
    [
        ("红色 red 🟣", "红色 red 🟣", 0),
        ("\ud83d\udfe3", "🟣", 0),  # as Tk on Windows gives it
        ("a\ud83db", "a\ufffdb", 1),
        ("\udfe3\ud83d", "\ufffd\ufffd", 2),
        ("typed \ufffd", "typed \ufffd", 0),
        (b"\xba\xec\xc9\xab".decode("utf-8", "surrogateescape"), "\ufffd\ufffd\u026b", 2),  # 红色 in GBK
        ("红".encode()[:2].decode("utf-8", "surrogateescape"), "\ufffd\ufffd", 2),
    ],
)
def test_halves_of_characters_are_replaced_and_counted(text, wanted, replaced):
    assert whole(text) == (wanted, replaced)


@pytest.mark.parametrize("locale", ["utf-8", "latin-1", "gbk", "ascii"])
def test_a_word_of_the_command_line_is_utf8_whatever_the_locale(locale, monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda word: word.encode(locale, "surrogateescape"))
    for content in (b"What color?", "什么颜色？".encode()):
        assert from_command_line(content.decode(locale, "surrogateescape")) == content.decode("utf-8")


def test_a_word_that_is_not_utf8_is_what_the_locale_says(monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda word: word.encode("gbk", "surrogateescape"))
    assert from_command_line("红色") == "红色"
    monkeypatch.setattr(os, "fsencode", lambda word: word.encode("utf-8", "surrogateescape"))
    assert whole(from_command_line(b"red \xba".decode("utf-8", "surrogateescape"))) == ("red \ufffd", 1)


@pytest.mark.parametrize("command", ["ask", "evaluate", "process_image", "train", "dataset.show", "dataset.describe"])
def test_no_command_ends_because_the_console_cannot_print_a_character(command, monkeypatch, capsys):
    module, prepared = importlib.import_module(command), []
    monkeypatch.setattr(module, "prepare_console", lambda: prepared.append(command))
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    assert prepared == [command] and "usage: " in capsys.readouterr().out


def test_a_console_reads_utf8_and_prints_what_it_can(monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("红色\n".encode()[1:]), encoding="latin-1"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    prepare_console()
    assert whole(sys.stdin.readline()) == ("\ufffd\ufffd色\n", 2)
    assert can_print("red") and not can_print("红")
    print("红 red", flush=True)
    assert output.getvalue() == b"? red" + os.linesep.encode()
