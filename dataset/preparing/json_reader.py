"""A reader of JSON records that streams, and names the line and column of a mistake.

The json module of Python needs the whole file in memory: a set of a million records is gigabytes of objects. ijson
streams, but tells no line and column, turns a lone surrogate (``"\\ud800"``) into ``?`` without a word, and fails on a
byte order mark. Annotations written on Windows and by hand have all three. So this reader is ours: it reads the file
in blocks and gives each value to ``json.JSONDecoder.raw_decode``.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Collection, Iterator
from typing import NoReturn

from common.errors import UserError
from dataset.records import KINDS

EXPECTED = "expected one list of records, [{...}, {...}], or one record a line"
LONGEST_RECORD = 64 * 2**20  # characters; a real one has some thousands
BLOCK = 2**20  # bytes

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
RECORD_KEYS = frozenset(("image", "image_id", "conversations", "messages", "caption", "captions", "question", "query"))
_RECORD_LISTS = ("images", "annotations", "questions", "data")  # where published files have their records


def read_json(path: str | os.PathLike[str]) -> list[object]:
    """All of :func:`read_records`."""
    return list(read_records(path))


def read_records(path: str | os.PathLike[str], keys: Collection[str] = RECORD_KEYS) -> Iterator[object]:
    """The records of a JSON file one by one: a list, or JSON Lines, or several of either in one file.

    UTF-8, with or without a byte order mark. At most one block and one record are in memory. The first line of JSON
    Lines has one of ``keys``; an object without is some other file.

    Raises:
        UserError: not readable, not UTF-8, not JSON (with line and column), or nothing that could be records.
    """
    reader = _Reader(path)
    if not reader.skip_space():
        raise UserError(f"{path}: not valid JSON at line 1, column 1: the file is empty; {EXPECTED}")
    first = True
    while reader.skip_space():
        if reader.take("["):
            yield from _list_items(reader)
        else:
            record = reader.value()
            if not isinstance(record, dict) or (first and record.keys().isdisjoint(keys)):
                raise UserError(f"{path}: {EXPECTED}, not {KINDS[type(record)]}")
            yield record
        first = False


def read_first(path: str | os.PathLike[str]) -> tuple[str | None, object]:
    """The first record of a JSON file, to tell its format, and the key of the list that holds the records.

    The key is None where the file is a list of records or has one record a line, and "" where it is an object that has
    each record under a key of its own.

    Raises:
        UserError: as :func:`read_records`.
    """
    reader = _Reader(path)
    if not reader.skip_space():
        raise UserError(f"{path}: not valid JSON at line 1, column 1: the file is empty; {EXPECTED}")
    if reader.take("["):
        return None, next(_list_items(reader), {})
    if reader.take("{"):
        for name in _keys(reader):
            if name in _RECORD_LISTS and reader.take("["):
                items = _list_items(reader)
                item = next(items, None)
                if isinstance(item, dict) and (name != "images" or "sentences" in item):
                    return name, item
                for _ in items:  # COCO names its images before it says anything about them
                    pass
            elif isinstance(value := reader.value(), dict) and "question" in value:
                return "", value
    return None, _Reader(path).value()


def read_list(path: str | os.PathLike[str], key: str, others: dict[str, object] | None = None) -> Iterator[object]:
    """The values of the list that the object of a JSON file holds under ``key``, one by one.

    Args:
        others: gets what the object holds under other keys and is no list, each when the reader comes by it.

    Raises:
        UserError: as :func:`read_records`; and where the file is no object, or holds no list under ``key``.
    """
    reader, found = _Reader(path), False
    for name in _keys_of_file(reader):
        if name == key and reader.take("["):
            found = True
            yield from _list_items(reader)
        elif reader.take("["):
            for _ in _list_items(reader):
                pass
        else:
            value = reader.value()
            if others is not None:
                others[name] = value
    if not found:
        raise UserError(f'{path}: expected an object with a list under "{key}", which it lacks')


def read_members(path: str | os.PathLike[str]) -> Iterator[tuple[str, object]]:
    """The keys and values of the object that is the whole of a JSON file, one by one.

    Raises:
        UserError: as :func:`read_records`; and where the file is no object.
    """
    reader = _Reader(path)
    for name in _keys_of_file(reader):
        yield name, reader.value()


def _keys_of_file(reader: _Reader) -> Iterator[str]:
    """The keys of the object that a file holds; the caller takes each value before it asks for the next key."""
    if not (reader.skip_space() and reader.take("{")):
        raise UserError(f"{reader.path}: not an object, {{...}}, as this format has it")
    yield from _keys(reader)
    if reader.skip_space():
        reader.fail("Extra data")


def _keys(reader: _Reader) -> Iterator[str]:
    """The keys of an object whose opening brace was just read."""
    reader.require_more()
    if reader.take("}"):
        return
    while True:
        name = reader.value()
        if not isinstance(name, str):
            reader.fail("Expecting property name enclosed in double quotes")
        reader.require_more()
        if not reader.take(":"):
            reader.fail("Expecting ':' delimiter")
        reader.require_more()
        yield name
        reader.require_more()
        if reader.take("}"):
            return
        if not reader.take(","):
            reader.fail("Expecting ',' delimiter")
        reader.require_more()


def _list_items(reader: _Reader) -> Iterator[object]:
    """The values of a list whose opening bracket was just read."""
    reader.require_more()
    if reader.take("]"):
        return
    while True:
        yield reader.value()
        reader.require_more()
        if reader.take("]"):
            return
        if not reader.take(","):
            reader.fail("Expecting ',' delimiter")
        reader.require_more()


class _Reader:
    """The text of a file, read in blocks as it is needed; ``buffer[position:]`` is what was read and not yet taken."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.buffer, self.position, self.ended = "", 0, False
        self.line, self.column = 1, 1  # of the buffer's first character
        self.bytes_read = 0
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            self.file = open(path, "rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None

    def skip_space(self) -> bool:
        """Skip white space; whether anything follows."""
        while True:
            space = _SPACE.match(self.buffer, self.position)
            assert space is not None  # the pattern matches the empty text
            self.position = space.end()
            if self.position < len(self.buffer):
                return True
            if self.ended:
                return False
            self._read(BLOCK)

    def require_more(self) -> None:
        if not self.skip_space():
            self.fail("the text ends in the middle")

    def take(self, character: str) -> bool:
        """Take this character if it comes next."""
        if self.buffer.startswith(character, self.position):
            self.position += 1
            return True
        return False

    def value(self) -> object:
        """Take one JSON value."""
        size = BLOCK
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.position)
                if end < len(self.buffer) or self.ended:  # at the end of the buffer, a number may have more digits
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                if self.ended:
                    self.fail(error.msg, error.pos)
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise UserError(f"{self.path}: not valid JSON: {error}; {EXPECTED}") from None
            if len(self.buffer) - self.position > LONGEST_RECORD:
                self.fail(f"no end of this record in {LONGEST_RECORD:,} characters")
            self._read(size)
            size *= 2  # a cut value is decoded again from its start: doubling makes that twice the work, not quadratic

    def fail(self, problem: str, position: int | None = None) -> NoReturn:
        line, column = self._line_and_column(self.position if position is None else position)
        raise UserError(f"{self.path}: not valid JSON at line {line}, column {column}: {problem}; {EXPECTED}")

    def _line_and_column(self, position: int) -> tuple[int, int]:
        lines = self.buffer.count("\n", 0, position)
        if lines:
            return self.line + lines, position - self.buffer.rindex("\n", 0, position)
        return self.line, self.column + position

    def _read(self, size: int) -> None:
        """Drop what was taken from the buffer and read about ``size`` bytes more."""
        if self.position:
            self.line, self.column = self._line_and_column(self.position)
            self.buffer, self.position = self.buffer[self.position :], 0
        pending = len(self.decoder.getstate()[0])  # bytes of a character that the last block cut
        try:
            block = self.file.read(size)
            self.buffer += self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            byte = self.bytes_read - pending + error.start
            raise UserError(f"{self.path}: not UTF-8 text (byte {byte}); save the file as UTF-8") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        self.bytes_read += len(block)
        if not block:
            self.ended = True
            self.file.close()
