"""How an answer is decoded: the ``generate`` section as arguments of transformers' ``generate``, and stop strings.

Whatever is chosen, an answer is the one that transformers gives for the whole prompt alone: on a prefix cache, in a
batch with padding, and in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
)

from dataset.prompt import without_thoughts

if TYPE_CHECKING:
    from settings import Generate


def generate_arguments(generate: Generate) -> dict[str, Any]:
    """Arguments of transformers' ``generate``; greedy by default. Stop strings and the seed are not among them."""
    arguments: dict[str, Any] = {"max_new_tokens": generate.max_new_tokens, "do_sample": generate.do_sample}
    if generate.do_sample:  # transformers' own top_k is 50
        arguments |= {"temperature": generate.temperature, "top_p": generate.top_p, "top_k": generate.top_k or 0}
    if generate.min_new_tokens:
        arguments["min_new_tokens"] = generate.min_new_tokens
    if generate.num_beams > 1:
        arguments["num_beams"] = generate.num_beams
    if generate.repetition_penalty != 1:
        arguments["repetition_penalty"] = generate.repetition_penalty
    if generate.no_repeat_ngram_size:
        arguments["no_repeat_ngram_size"] = generate.no_repeat_ngram_size
    return arguments


# ---------------------------------------------------------------------------------------------- padding


def count_no_padding(arguments: dict[str, Any], mask: torch.Tensor) -> dict[str, Any]:
    """The same arguments, with which repeated tokens are counted without the padding of ``mask`` [B, T].

    transformers counts padding as text. Qwen's padding is also a token that ends answers: a row with padding would get
    another answer than the same row alone.
    """
    counting: list[LogitsProcessor] = []
    arguments = dict(arguments)
    if (penalty := arguments.pop("repetition_penalty", None)) is not None:
        counting.append(RepetitionPenaltyLogitsProcessor(penalty))
    if (size := arguments.pop("no_repeat_ngram_size", None)) is not None:
        counting.append(NoRepeatNGramLogitsProcessor(size))
    return {**arguments, "logits_processor": [_WithoutPadding(mask.bool(), counting)]} if counting else arguments


class _WithoutPadding(LogitsProcessor):
    """Applies processors to each row's own tokens."""

    def __init__(self, mask: torch.Tensor, processors: Sequence[LogitsProcessor]) -> None:
        self.mask, self.processors = mask, processors  # [B, T] bool

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``input_ids`` [B * beams, T + new] and ``scores`` [B * beams, V] -> scores [B * beams, V]."""
        beams, width = len(input_ids) // len(self.mask), self.mask.shape[1]
        rows = []
        for number, ids in enumerate(input_ids):
            own = torch.cat([ids[:width][self.mask[number // beams]], ids[width:]])[None]  # [1, real + new]
            row = scores[number : number + 1]  # [1, V]
            for processor in self.processors:
                row = processor(own, row)
            rows.append(row)
        return torch.cat(rows)


# ---------------------------------------------------------------------------------------------- stop strings


class StopAt(StoppingCriteria):
    """Ends a row whose answer contains a stop string. For one call of ``generate``.

    Only the answer's own text counts. transformers' ``stop_strings`` also find one that begins in the prompt, and one
    in what a thinking model thinks.
    """

    def __init__(self, tokenizer: Any, stop_strings: Sequence[str], thinking: bool) -> None:
        self.tokenizer, self.stop_strings, self.thinking = tokenizer, stop_strings, thinking
        self.start: int | None = None  # the length of the prompts

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if self.start is None:  # the first call comes after the first token
            self.start = input_ids.shape[1] - 1
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        if self.thinking:
            texts = [without_thoughts(text) for text in texts]
        found = [any(stop in text for stop in self.stop_strings) for text in texts]
        return torch.tensor(found, device=input_ids.device)


def cut_at_stop(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    return text[: min((at for at in map(text.find, stop_strings) if at >= 0), default=len(text))]


def pieces_to_stop(pieces: Iterable[str], stop_strings: Sequence[str]) -> Iterator[str]:
    """Pieces of an answer up to the first stop string. What may be the beginning of one is held back."""
    held = ""
    for piece in pieces:
        held += piece
        whole = cut_at_stop(held, stop_strings)
        if len(whole) < len(held):
            yield whole
            return
        keep = max((_overlap(held, stop) for stop in stop_strings), default=0)
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield ready
    if held:
        yield held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` are the beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
