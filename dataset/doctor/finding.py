"""What a check gives: the fault with its numbers, examples, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOTEWORTHY = 0.001  # a smaller share of faults is no finding: every large set has a few, and they change nothing
MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One fault of the data: a sentence with its numbers, what to do, and all examples; the report shows a few."""

    problem: str
    advice: str
    examples: Sequence[str] = ()


class CannotCheck(Exception):
    """A check that could not be made; the message is the reason, in one line."""


def share_of(count: int, total: int, what: str) -> str:
    """Such as "12 of 3,000 pictures (0.4 %)"."""
    return f"{count:,} of {total:,} {what} ({100 * count / max(1, total):.1f} %)"


def quoted(text: str, most: int = 60) -> str:
    """A question or an answer for one line of the report: in quotes, shortened, without control characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return f'"{line if len(line) <= most else line[: most - 3] + "..."}"'
