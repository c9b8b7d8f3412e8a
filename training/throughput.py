"""What went through since the last log: tokens per second, padding, and time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable

from dataset.collate import Counts


class Throughput:
    """Counts batches until :meth:`report`. ``clock`` gives seconds, by which the loop also measures its waiting."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.before = (0, 0)  # real tokens and padding since the last log, of the run that this one resumes
        self.reset()

    def reset(self) -> None:
        self.begin, self.waiting = self.clock(), 0.0  # seconds
        self.tokens = self.visual = self.padding = 0
        self.before = (0, 0)

    def add(self, counts: Counts) -> None:
        self.tokens += counts.tokens
        self.visual += counts.visual
        self.padding += counts.padding

    def since_log(self) -> tuple[int, int]:
        """Real tokens and padding since the last log, the resumed run's included."""
        return self.before[0] + self.tokens, self.before[1] + self.padding

    def report(self) -> dict[str, float]:
        """Real tokens per second (all, and text alone), the shares of padding and waiting; counts from zero after."""
        seconds = self.clock() - self.begin
        real, padding = self.since_log()
        numbers = {
            "tokens_per_second": round(self.tokens / seconds),
            "text_tokens_per_second": round((self.tokens - self.visual) / seconds),
            "padding": round(padding / max(1, real + padding), 4),
            "waiting_for_data": round(self.waiting / seconds, 4),
        }
        self.reset()
        return numbers
