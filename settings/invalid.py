"""What is wrong with one key of a config."""

from __future__ import annotations

import json
from typing import Any

MISSING = object()


class Invalid(Exception):
    """What is wrong with one key; becomes a UserError once it is known whether file or command line set it."""

    def __init__(self, key: str, problem: str, value: Any = MISSING, nearest: str = "") -> None:
        self.key = key
        shown = "" if value is MISSING else f" = {show(value)}"
        super().__init__(f"{key}{shown}: {problem}{nearest}")


def show(value: Any) -> str:
    """A value on one line, as JSON would have it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else text[:97] + "..."
