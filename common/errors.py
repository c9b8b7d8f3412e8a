"""The one error that a script turns into a line on stderr."""

from __future__ import annotations


class UserError(Exception):
    """A mistake a person can mend. The message is one line; scripts print it on stderr and exit with 2."""

    def __init__(self, message: str) -> None:
        printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(" ".join(printable.split()))
