"""The error that a command turns into one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can correct. The message is one line; commands print it on stderr and exit with 2."""

    def __init__(self, message: str) -> None:
        printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(" ".join(printable.split()))


def exit_status(run: Callable[[], int | None], interrupted: str) -> int:
    """Run a command; returns its exit status.

    It is what ``run`` returns (None: 0), 2 after a UserError, which is printed, and 130 after Ctrl-C, when the line
    ``interrupted`` is printed.
    """
    try:
        return run() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
