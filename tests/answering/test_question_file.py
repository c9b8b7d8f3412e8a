"""A file of questions: text or JSON Lines; every mistake is one line that names the line."""

from __future__ import annotations

import json
import re

import pytest

from answering.question_file import read_question_file
from common.errors import UserError
from tests.helpers.tiny import picture


@pytest.fixture
def red(tmp_path) -> str:
    picture("red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


def test_a_text_has_one_question_a_line_about_the_given_pictures(tmp_path, red):
    file = tmp_path / "questions.txt"
    file.write_bytes("\ufeffWhat color?\r\n\n  {how many?}\n".encode() + b"\xba\xec?\n")
    asked, replaced = read_question_file(file, [red])
    assert [(one.line, one.question) for one in asked] == [(1, "What color?"), (3, "{how many?}"), (4, "\ufffd\ufffd?")]
    assert replaced == 2 and all(one.images == [red] for one in asked)


def test_json_lines_name_pictures_and_keep_other_keys(tmp_path, red):
    file = tmp_path / "questions.jsonl"
    lines = [
        {"id": 7, "question": "什么颜色？", "image": red},
        {"question": "which?", "images": [red, red]},
        {"question": "and?"},
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    asked, _ = read_question_file(file, [red])
    assert [one.images for one in asked] == [[red], [red, red], [red]]
    assert asked[0].fields == lines[0] and asked[0].question == "什么颜色？"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "a.txt: no question in it"),
        ("a.jsonl", '{"question": "a", "image": "{red}"}\n{"question":', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"question": "a", "image": "{red}"}\n[]', 'a.jsonl, line 2: expected an object with "question"'),
        ("a.jsonl", '{"question": " ", "image": "{red}"}', 'line 1: expected an object with "question"'),
        ("a.jsonl", '{"question": "a", "image": 5}', 'line 1: expected "image": "a path"'),
        ("a.jsonl", '{"question": "a", "image": "no.png"}', "line 1: no.png: missing"),
        ("a.jsonl", '{"question": "a", "image": "a\\u0000.png"}', "line 1: a"),
        ("a.jsonl", '{"question": "a"}', "line 1: no picture; give --image FILE"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, red, name, content, message):
    (tmp_path / name).write_text(content.replace("{red}", red), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        read_question_file(tmp_path / name, [])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no.txt: cannot be read"):
        read_question_file(tmp_path / "no.txt", ["a.png"])
