"""From a conversation to token ids and labels.

Training, evaluation, ``ask.py`` and the window all call :func:`build_prompt`, so a question is put for an answer
exactly as it was for training. The layout is Qwen's ChatML::

    <|im_start|>system\n{system}<|im_end|>\n
    <|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n   (once per turn)

Ids and labels are built together, segment by segment. Nothing is tokenised a second time to find where an answer
begins: in other projects that search ends in "tokenization mismatch" and losses of zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from qwen.tokenizer import IGNORE_INDEX, IMAGE_TOKEN, Tokenizer, token_id

if TYPE_CHECKING:
    from PIL import Image

NO_THOUGHTS = "<think>\n\n</think>\n\n"  # before an answer: turns the thinking of Qwen3 off

_CONTROL = re.compile(r"<\|([^<>|\s]{1,40})\|>|<(image)>", re.IGNORECASE)


class PromptError(ValueError):
    """A conversation that cannot be turned into a prompt."""


@dataclass
class Turn:
    """One question, with an ``<|extra_0|>`` for each image in it, and its answer (None: to be generated)."""

    question: str
    answer: str | None = None


@dataclass
class Request:
    """A conversation whose last turn has no answer yet, and the images of its placeholders, in order."""

    turns: list[Turn]
    images: list[Image.Image] = field(default_factory=list)
    system: str | None = None  # the conversation's own system text; None: that of the config or of the call


def neutralise(text: str) -> str:
    """Separate the characters of every control token in user text: ``<|im_end|>`` becomes ``<| im_end |>``.

    ``<image>`` becomes ``< image >``. Only spaces are added, so no new control token can form from broken ones.
    """
    return _CONTROL.sub(lambda m: f"<| {m[1]} |>" if m[1] else f"< {m[2]} >", text)


def question_with_images(text: str, images: int) -> str:
    """What a person typed, as a question about ``images`` pictures; control tokens in it are neutralised."""
    return IMAGE_TOKEN * images + ("\n" if images else "") + neutralise(text)


@lru_cache(maxsize=10_000)
def encode_text(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Ids of plain text. Control tokens spelled out in it are ordinary characters.

    Cached, because texts such as "user\\n" are in every turn and a call costs 0.1 ms.
    """
    return tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def build_prompt(
    tokenizer: Tokenizer, turns: list[Turn], *, system: str = "", image_context_length: int = 0, thinking: bool = False
) -> tuple[list[int], list[int]]:
    """Build ``input_ids`` and ``labels`` (two lists of equal length) of one conversation.

    Every ``<|extra_0|>`` in a question is expanded to ``image_context_length`` ids of that token. Labels are the
    answers and the ``<|im_end|>`` after each, for every turn; everything else is ``IGNORE_INDEX``. A last turn
    without an answer ends the prompt after ``assistant\\n``, ready for ``generate``.

    If the model's own template can turn thinking off (Qwen3), every answer follows the empty thoughts with which that
    template does it, unless ``thinking``. They are unsupervised, and the same in training and in answering.

    Raises:
        PromptError: no turns, or an unanswered turn before the last.
        TokenError: the tokenizer lacks a control token.
    """
    if not turns:
        raise PromptError("a conversation needs at least one turn")
    start, end = token_id(tokenizer, "<|im_start|>"), token_id(tokenizer, "<|im_end|>")
    newline = encode_text(tokenizer, "\n")
    opening = [start, *encode_text(tokenizer, "assistant\n")]
    if not thinking and can_think(tokenizer):
        opening += encode_text(tokenizer, NO_THOUGHTS)
    input_ids: list[int] = []
    labels: list[int] = []

    def add(ids: Sequence[int], supervised: bool = False) -> None:
        input_ids.extend(ids)
        labels.extend(ids if supervised else [IGNORE_INDEX] * len(ids))

    if system:
        add([start, *encode_text(tokenizer, "system\n" + system), end, *newline])
    for index, turn in enumerate(turns):
        add([start, *encode_text(tokenizer, "user\n")])
        for position, piece in enumerate(turn.question.split(IMAGE_TOKEN)):
            if position:
                add([token_id(tokenizer, IMAGE_TOKEN)] * image_context_length)
            add(encode_text(tokenizer, piece))
        add([end, *newline, *opening])
        if turn.answer is not None:
            add([*encode_text(tokenizer, turn.answer), end], supervised=True)
            add(newline)
        elif index != len(turns) - 1:
            raise PromptError(f"turn {index + 1} of {len(turns)} has no answer; only the last may be open")
    return input_ids, labels


def fit_prompt(
    tokenizer: Tokenizer, turns: list[Turn], *, max_length: int, max_new_tokens: int = 0, **options
) -> tuple[list[int], list[int]]:
    """:func:`build_prompt` within ``max_length`` tokens: the oldest turns are dropped whole, but their images are kept.

    ``max_new_tokens`` of ``max_length`` are left free for the answer.

    Raises:
        PromptError: the last turn alone is too long. Nothing is cut in the middle.
    """
    for first in range(len(turns)):
        kept = list(turns[first:])
        images = sum(turn.question.count(IMAGE_TOKEN) for turn in turns[:first])
        if images:
            kept[0] = Turn(IMAGE_TOKEN * images + "\n" + kept[0].question, kept[0].answer)
        input_ids, labels = build_prompt(tokenizer, kept, **options)
        if len(input_ids) <= max_length - max_new_tokens:
            return input_ids, labels
    if not turns:
        raise PromptError("a conversation needs at least one turn")
    tokens = f"too long: {len(input_ids)} tokens with one turn"
    if not max_new_tokens:
        raise PromptError(f"{tokens}, language.max_length allows {max_length}")
    raise PromptError(
        f"{tokens}, language.max_length ({max_length}) less max_new_tokens ({max_new_tokens}) allows "
        f"{max_length - max_new_tokens}; ask for a shorter answer or a shorter question"
    )


def images_first(turns: list[Turn]) -> list[Turn]:
    """The same conversation with all its image placeholders at the beginning of its first question.

    LLaVA has half of them after the question. At the beginning, all conversations about an image can share it.
    """
    images = sum(turn.question.count(IMAGE_TOKEN) for turn in turns)
    bare = [Turn(turn.question.replace(IMAGE_TOKEN, "").strip("\n"), turn.answer) for turn in turns]
    if images:
        bare[0].question = IMAGE_TOKEN * images + "\n" + bare[0].question
    return bare


def can_think(tokenizer: Tokenizer) -> bool:
    """Whether the model's own template has a switch for thinking, as Qwen3's has."""
    return "enable_thinking" in str(tokenizer.chat_template)


def without_thoughts(answer: str) -> str:
    """An answer without the thoughts before it; "" if the model ran out of tokens while thinking."""
    return answer.partition("</think>")[2] if answer.lstrip().startswith("<think>") else answer


def skip_thoughts(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces of an answer as they come; joined, they are :func:`without_thoughts` of the whole.

    Pieces from ``<think>`` on are held back until ``</think>``.
    """
    held: str | None = ""
    for piece in pieces:
        if held is None:
            yield piece
            continue
        held += piece
        begun = held.lstrip()[: len("<think>")]
        if "</think>" in held or not "<think>".startswith(begun):
            yield without_thoughts(held)
            held = None
    if held is not None:
        yield without_thoughts(held)
