"""Records of JSON files: as a list or one a line, in blocks, and where a file is broken."""

from __future__ import annotations

import json

import pytest

from common.errors import UserError
from dataset.preparing import json_reader
from process_image import read_json


def test_a_byte_order_mark_changes_nothing(tmp_path):
    text = '[{"image_id": "a.jpg", "caption": "一只猫"}]'
    (tmp_path / "plain.json").write_bytes(text.encode("utf-8"))
    (tmp_path / "marked.json").write_bytes(text.encode("utf-8-sig"))
    assert read_json(tmp_path / "plain.json") == [{"image_id": "a.jpg", "caption": "一只猫"}]
    assert read_json(tmp_path / "marked.json") == read_json(tmp_path / "plain.json")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[{"a": 1},\n {"b" 2}]', "line 2, column 7"),
        (b'{"image": ""}\r\n{"a" 2}', "line 2, column 6"),
        (b'[{"image": "a.jpg"}, {"image": "b.', "line 1, column 32: Unterminated string"),
        (b'[{"image": "a.jpg"}, ', "line 1, column 22: the text ends in the middle"),
        (b"[", "line 1, column 2: the text ends in the middle"),
        (b'[{"image": "a.jpg"} {}]', "line 1, column 21: Expecting ',' delimiter"),
        (b"", "line 1, column 1"),
        (b'{"images": []}', "not an object"),
        (b"3", "not a number"),
        ('["中文"]'.encode("gbk"), "not UTF-8 text (byte 2)"),
        ('["a"]'.encode("utf-16"), "not UTF-8 text (byte 0)"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[" + b"9" * 10_000 + b"]", "not valid JSON"),
    ],
)
def test_a_broken_file_is_one_line_with_the_position(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "a.json")
    assert expected in str(caught.value) and str(tmp_path / "a.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_records_may_be_one_a_line_or_in_several_lists(tmp_path):
    first, second = {"image": "a.jpg", "n": 1}, {"image": "b.jpg", "n": 22}
    for text in (
        f"{json.dumps(first)}\n{json.dumps(second)}\n",
        f"\ufeff{json.dumps(first)}\r\n\r\n{json.dumps(second)}",
        f"[{json.dumps(first)}]\n[{json.dumps(second)}]",
        json.dumps([first, second], indent=3),
        f"[]\n[{json.dumps(first)}, {json.dumps(second)}] [ ]",
    ):
        (tmp_path / "a.json").write_bytes(text.encode())
        assert read_json(tmp_path / "a.json") == [first, second]


@pytest.mark.parametrize("text", ["[]", " [ ]\n", "[] []"])
def test_an_empty_list_has_no_records(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "a.json") == []


def test_a_file_is_read_in_pieces_and_its_end_is_where_it_is(tmp_path, monkeypatch):
    """Characters of several bytes and numbers lie across the ends of pieces; the position counts the whole file."""
    original = json_reader._Reader._read
    monkeypatch.setattr(json_reader._Reader, "_read", lambda self, size: original(self, 3))
    records = [{"image": "图\n", "n": [123456, -7.5e3]}] * 3
    (tmp_path / "a.json").write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == records
    (tmp_path / "a.json").write_bytes('[{"image": "图"},\n\n {"image" 3}]'.encode())
    with pytest.raises(UserError, match="line 3, column 11: Expecting ':'"):
        read_json(tmp_path / "a.json")


def test_a_record_without_an_end_is_given_up_before_the_memory_is(tmp_path, monkeypatch):
    monkeypatch.setattr(json_reader, "LONGEST_RECORD", 3 * 2**20)
    (tmp_path / "a.json").write_text('[{"image": "' + "x" * 20_000_000, encoding="utf-8")
    with pytest.raises(UserError, match="no end of this record in 3,145,728 characters"):
        read_json(tmp_path / "a.json")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="none.json: cannot be read"):
        read_json(tmp_path / "none.json")
