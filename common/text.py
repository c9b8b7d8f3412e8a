"""Text from outside: bytes that are not UTF-8, halves of characters, and consoles that cannot print every character.

Nothing here ends a conversation. What cannot be read or printed is replaced, and the number of replaced characters is
known, so that it can be said.
"""

from __future__ import annotations

import io
import os
import sys


def whole(text: str) -> tuple[str, int]:
    """The text without lone surrogates, which no tokenizer and no file takes, and how many were replaced by U+FFFD.

    Tk on Windows gives an emoji as two surrogates: such a pair becomes one character. A byte that was not UTF-8 is a
    lone surrogate too where Python reads with ``surrogateescape``.
    """
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined, joined.count("\ufffd") - text.count("\ufffd")


def from_command_line(word: str) -> str:
    """A word of the command line, read as UTF-8 if it is that, else as the locale has it.

    The words have lone surrogates where neither fits; :func:`whole` replaces them.
    """
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        return word


def prepare_console() -> None:
    """Read UTF-8 from stdin whatever the locale, and print a ``?`` for a character that the console cannot print."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def can_print(text: str) -> bool:
    """Whether stdout's encoding has every character of the text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
