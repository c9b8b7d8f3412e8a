"""The error that a command turns into one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can correct. The message is one line; commands print it on stderr and exit with 2."""

    def __init__(self, message: str) -> None:
        printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(" ".join(printable.split()))


def exit_status(run: Callable[[], int | None], interrupted: str, language: str = "en") -> int:
    """Run a command; returns its exit status.

    It is what ``run`` returns (None: 0), 2 after a UserError, which is printed in ``language`` ("en" or "zh"), and 130
    after Ctrl-C, when the line ``interrupted`` is printed.
    """
    try:
        return run() or 0
    except UserError as error:
        print(_in_language(error, language), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def _in_language(error: UserError, language: str) -> str:
    if language == "en":
        return f"error: {error}"
    from common.language import in_chinese  # its table takes 10 ms, which most commands need not spend

    return f"错误：{in_chinese(str(error))}"
