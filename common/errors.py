"""The error that a command turns into one line on stderr."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can correct. The message is one line; commands print it on stderr and exit with 2."""

    def __init__(self, message: str) -> None:
        printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(" ".join(printable.split()))
