"""The engine: one thread owns the model, keeps the keys and values of pictures, and answers waiting questions together.

A batch holds questions whose pictures end at the same token and that are decoded alike. Nobody joins a batch that runs.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import Cache, StoppingCriteria

from answering.assistant import Assistant
from answering.decoding import cut_at_stop, generate_arguments
from answering.prefix_cache import bytes_of, generate_on_rows, prefill, take_row
from answering.worker import describe_error
from dataset.prompt import Turn
from model.adapters import base_of
from settings import Generate

LULL = 0.01  # seconds after a batch in which its clients may ask again: else 8 clients come as batches of 7 and 1

Key = tuple[tuple[str, ...], tuple[int, ...]]  # the pictures of a prefix, and its ids


@dataclass(frozen=True)
class Picture:
    """A prepared picture, and the hash of the file that it came from."""

    digest: str
    pixel_values: torch.Tensor  # [3, H, W] float32


@dataclass(frozen=True)
class Finished:
    """The end of an answer; ``stop``: by itself or at a stop string, ``length``: no more tokens allowed."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt, whose keys and values were there


@dataclass(frozen=True)
class Failed:
    """No answer. ``kind`` is "user" where the question is at fault."""

    kind: Literal["user", "memory", "unexpected"]
    text: str


@dataclass(eq=False)
class Question:
    """A question for the engine, which calls ``deliver`` in its thread.

    Pieces of the answer come first, each of them text; then, once, how it ended. After ``stop`` is set, the answer
    ends within a token and nothing more is delivered.
    """

    turns: list[Turn]
    pictures: list[Picture]
    system: str
    generate: Generate
    stop: threading.Event
    deliver: Callable[[str | Finished | Failed], object]
    streams: bool = False  # pieces as they are generated; else there is one piece
    prompt: list[int] = field(default_factory=list)  # set by the engine, like the next
    end: int = 0  # tokens of the prompt up to the end of its pictures

    def key(self) -> Key:
        return tuple(picture.digest for picture in self.pictures), tuple(self.prompt[: self.end])

    def alike(self) -> Any:
        """Equal for questions that can share a batch. A seed means the same answer each time: such a one is alone."""
        if self.generate.do_sample and self.generate.seed is not None:
            return id(self)
        own = {"max_new_tokens", "stop_strings", "seed"}  # each row has its own
        return self.end, len(self.pictures), self.generate.model_dump_json(exclude=own)


class Engine:
    """Answers questions in its own thread until :meth:`close`. ``prefix_bytes``: how much it keeps of pictures."""

    def __init__(self, assistant: Assistant, prefix_bytes: int) -> None:
        self.assistant, self.prefixes = assistant, Prefixes(assistant, prefix_bytes)
        self._inbox: queue.SimpleQueue[Question | None] = queue.SimpleQueue()  # None: end the thread
        self._waiting: list[Question] = []
        self._running: list[Question] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, question: Question) -> None:
        """Queue a question; returns at once."""
        self._inbox.put(question)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self, timeout: float) -> bool:
        """End the answers in progress and the thread; whether it ended within ``timeout`` seconds."""
        self._inbox.put(None)
        for question in list(self._running):
            question.stop.set()
        self._thread.join(timeout)
        return not self.alive

    def _work(self) -> None:
        while self._gather():
            self._running = self._next_batch()
            if self._running:
                self._answer(self._running)

    def _gather(self) -> bool:
        """Take in what was asked. Waits while there is nothing, and for LULL if the last batch was larger."""
        until = time.monotonic() + LULL
        while True:
            lull = until - time.monotonic() if len(self._waiting) < len(self._running) else 0.0
            try:
                if not self._waiting and lull <= 0:
                    question = self._inbox.get()
                else:
                    question = self._inbox.get(lull > 0, max(lull, 0.0))
            except queue.Empty:
                return True
            if question is None:
                return False
            self._take_in(question)

    def _take_in(self, question: Question) -> None:
        try:
            limit = question.generate.max_new_tokens
            question.prompt = self.assistant.prompt_of(question.turns, question.system, limit)
            question.end = self.assistant.end_of_images(question.prompt)
            self._waiting.append(question)
        except Exception as error:  # the thread must not end
            problem = describe_error(error)
            question.deliver(Failed(problem.kind, problem.text))

    def _next_batch(self) -> list[Question]:
        """The question that has waited longest, and others that can be answered with it."""
        self._waiting = [question for question in self._waiting if not question.stop.is_set()]
        alike = self._waiting[0].alike() if self._waiting else None
        batch = [question for question in self._waiting if question.alike() == alike]
        batch = batch[: self.assistant.config.generate.batch_size]
        self._waiting = [question for question in self._waiting if question not in batch]
        return batch

    def _answer(self, batch: Sequence[Question]) -> None:
        rows: list[_Row] = []
        try:
            caches, known = self.prefixes.of(batch)
            rows += [_Row(self.assistant, question, kept) for question, kept in zip(batch, known, strict=True)]
            generate = batch[0].generate
            if generate.seed is not None:
                torch.manual_seed(generate.seed)
            longest = max(question.generate.max_new_tokens for question in batch)
            generate_on_rows(
                self.assistant.model,
                [question.prompt for question in batch],
                batch[0].end,
                caches,
                self.assistant.tokenizer.pad_token_id,
                self.assistant.graphs,
                **{**generate_arguments(generate), "max_new_tokens": longest},
                stopping_criteria=[_Rows(rows)],
            )
        except Exception as error:  # the thread must not end
            problem = describe_error(error)
            if problem.kind == "memory":
                self.prefixes.clear()
            ended = {row.question for row in rows if row.ended}
            for question in batch:
                if question not in ended:
                    question.deliver(Failed(problem.kind, problem.text))


class Prefixes:
    """The keys and values of prompts up to the end of their pictures; the latest, within ``most`` bytes."""

    def __init__(self, assistant: Assistant, most: int) -> None:
        self.assistant, self.most, self.bytes = assistant, most, 0
        self.kept: OrderedDict[Key, Cache] = OrderedDict()  # the least recently used first

    def of(self, batch: Sequence[Question]) -> tuple[list[Cache], list[bool]]:
        """The prefix of each question, and whether it was kept. The missing ones are computed in one call.

        The questions' prefixes have the same number of tokens and of pictures.
        """
        keys = [question.key() for question in batch]
        found = {key: self.kept[key] for key in keys if key in self.kept}
        known = [key in found for key in keys]
        missing = {key: question for key, question in zip(keys, batch, strict=True) if key not in found}
        if missing:
            device = self.assistant.model.device
            input_ids = torch.tensor([ids for _, ids in missing], device=device)  # [M, end]
            pixels = [
                torch.stack([picture.pixel_values for picture in question.pictures]).to(device)
                if question.pictures
                else torch.zeros(0, device=device)
                for question in missing.values()
            ]  # each [n, 3, H, W]
            computed = prefill(self.assistant.model, input_ids, torch.ones_like(input_ids), pixels)
            found |= {key: take_row(computed, row) for row, key in enumerate(missing)}
        for key, cache in found.items():
            self._keep(key, cache)
        return [found[key] for key in keys], known

    def clear(self) -> None:
        self.kept.clear()
        self.bytes = 0
        if self.assistant.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _keep(self, key: Key, cache: Cache) -> None:
        if key not in self.kept:
            self.kept[key] = cache
            self.bytes += bytes_of(cache)
        self.kept.move_to_end(key)
        while self.bytes > self.most:
            _, oldest = self.kept.popitem(last=False)
            self.bytes -= bytes_of(oldest)


class _Row:
    """One answer of a batch, as it grows."""

    def __init__(self, assistant: Assistant, question: Question, kept: bool) -> None:
        self.assistant, self.question, self.kept = assistant, question, kept
        self.ends = set(base_of(assistant.model.language).generation_config.eos_token_id or [])
        self.ids: list[int] = []
        self.sent = 0  # characters
        self.ended = False

    def add(self, token: int) -> bool:
        """Take a token of the answer, and deliver what it makes known. Whether the answer has ended."""
        if self.ended or self.question.stop.is_set():
            self.ended = True
            return True
        if token in self.ends:
            return self._finish("stop")
        self.ids.append(token)
        stops = self.question.generate.stop_strings
        text = self.assistant.said(self.ids) if stops or self.question.streams else ""
        if cut_at_stop(text, stops) != text:
            return self._finish("stop")
        if len(self.ids) >= self.question.generate.max_new_tokens:
            return self._finish("length")
        if self.question.streams:
            self._send(certain(text, stops))
        return False

    def _finish(self, reason: Literal["stop", "length"]) -> bool:
        self._send(cut_at_stop(self.assistant.said(self.ids), self.question.generate.stop_strings).strip())
        tokens = len(self.question.prompt), len(self.ids), self.question.end if self.kept else 0
        self.ended = True
        self.question.deliver(Finished(reason, *tokens))
        return True

    def _send(self, text: str) -> None:
        if len(text) > self.sent:
            self.question.deliver(text[self.sent :])
            self.sent = len(text)


def certain(text: str, stop_strings: Sequence[str] = ()) -> str:
    """The part of an unfinished answer that more tokens do not change.

    Held back are half a character, a tag or a mark that is not closed, the beginning of a stop string, and blanks.
    """
    ends = [len(re.sub(r"(\ufffd+|<[^<>]{0,10})\Z", "", text))]
    for stop in stop_strings:
        ends += [len(text) - size for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return text[: min(ends)].strip()


class _Rows(StoppingCriteria):
    """Hands each row its new token, and ends it."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """``input_ids`` [B, T] -> bool [B]."""
        tokens = input_ids[:, -1].tolist()
        ended = [row.add(token) for row, token in zip(self.rows, tokens, strict=True)]
        return torch.tensor(ended, device=input_ids.device)
