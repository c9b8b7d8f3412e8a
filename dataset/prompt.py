"""From a conversation to token ids and labels.

Training, evaluation, ``ask.py`` and the window all call :func:`build_prompt`, so a question is put for an answer
exactly as it was for training. The layout is Qwen's ChatML::

    <|im_start|>system\n{system}<|im_end|>\n
    <|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n   (once per turn)

A LLaVA that a run begins with (``model``) has a template of its own, which is followed instead (dataset/layout.py).

Ids and labels are built together, segment by segment. Nothing is tokenised a second time to find where an answer
begins: in other projects that search ends in "tokenization mismatch" and losses of zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

from common.errors import UserError
from dataset.boxes import MARKS, Box, ask_about, spread_marks
from dataset.layout import layout_of
from qwen.tokenizer import IGNORE_INDEX, IMAGE_TOKEN, Tokenizer, box_tokens, picture_ids, token_id

if TYPE_CHECKING:
    from PIL import Image

_CONTROL = re.compile(r"<\|([^<>|\s]{1,40})\|>|<(image)>", re.IGNORECASE)
_NUMBER = re.compile(r"Picture \d+: ?$")  # before a picture, in data that have it
_BOX_MARK = re.compile("(" + "|".join(MARKS) + ")")


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

    ``<image>`` becomes ``< image >``, the marks of boxes ``< box >``. Only spaces are added, so no new control token
    can form from broken ones.
    """
    return spread_marks(_CONTROL.sub(lambda m: f"<| {m[1]} |>" if m[1] else f"< {m[2]} >", text))


def question_with_images(
    text: str, images: int, boxes: Sequence[Box] = (), labels: Sequence[str] = (), number: int | None = None
) -> str:
    """What a person typed, as a question about ``images`` pictures; control tokens in it are neutralised.

    ``boxes`` are parts of the picture with this ``number`` (None: the last) that it is about; ``labels`` are written
    before the pictures.
    """
    text = neutralise(text)
    pictures = "".join(f"{label}{IMAGE_TOKEN}" for label in labels or [""] * images)
    return pictures + ("\n" if images else "") + (ask_about(boxes, text, number) if boxes else text)


@lru_cache(maxsize=10_000)
def encode_text(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Ids of plain text. Control tokens spelled out in it are ordinary characters.

    Cached, because texts such as "user\\n" are in every turn and a call costs 0.1 ms.
    """
    return tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def encode_as_word(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """:func:`encode_text` of a text alone and, if it may follow a space, after one: its tokens wherever it stands.

    " arrow" in a question has other tokens than the answer "arrow".
    """
    spaced = encode_text(tokenizer, " " + text) if text[:1].isascii() else ()
    return (*encode_text(tokenizer, text), *spaced)


def encode_said(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """:func:`encode_text` of a question or an answer, whose marks of boxes are the tokens for them."""
    ids: list[int] = []
    for is_mark, piece in _said(tokenizer, text):
        ids += [token_id(tokenizer, piece)] if is_mark else encode_text(tokenizer, piece)
    return tuple(ids)


def decode_said(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of an answer: the tokens of boxes as their marks, other control tokens left out.

    A mark that the model spelt in ordinary characters is spread out: it is not a box.
    """
    marks = {token_id(tokenizer, token): mark for mark, token in box_tokens(tokenizer).items()}
    pieces: list[str] = []
    start = 0
    for end in [*(i for i, token in enumerate(ids) if token in marks), len(ids)]:
        text = tokenizer.decode(ids[start:end], skip_special_tokens=True)
        pieces += [spread_marks(text) if marks else text, *(marks[token] for token in ids[end : end + 1])]
        start = end + 1
    return "".join(pieces)


def _said(tokenizer: Tokenizer, text: str) -> Iterator[tuple[bool, str]]:
    """The pieces of a text: (True, control token) for each mark of a box, (False, text) for what is between."""
    tokens = box_tokens(tokenizer)
    for piece in _BOX_MARK.split(text) if tokens else [text]:
        if piece:
            yield (True, tokens[piece]) if piece in tokens else (False, piece)


def build_prompt(
    tokenizer: Tokenizer,
    turns: list[Turn],
    *,
    system: str = "",
    image_context_length: int = 0,
    thinking: bool = False,
    picture_numbers: bool = False,
) -> tuple[list[int], list[int]]:
    """Build ``input_ids`` and ``labels`` (two lists of equal length) of one conversation.

    Every ``<|extra_0|>`` in a question is expanded to ``image_context_length`` ids of that token. The marks of boxes
    (dataset/boxes.py) become the tokenizer's tokens for them. Labels are the
    answers and the ``<|im_end|>`` after each, for every turn; everything else is ``IGNORE_INDEX``. A last turn
    without an answer ends the prompt after ``assistant\\n``, ready for ``generate``.

    If the model's own template can turn thinking off (Qwen3), every answer follows the empty thoughts with which that
    template does it, unless ``thinking``. They are unsupervised, and the same in training and in answering.

    With ``picture_numbers``, each picture follows its number, as Qwen-VL has it: "Picture 1: ", then a line break.

    A LLaVA's own template is followed instead of ChatML (dataset/layout.py), by the same rules; its own system message
    is used where ``system`` is "".

    Raises:
        PromptError: no turns, or an unanswered turn before the last.
        TokenError: the tokenizer lacks a control token.
        UserError: the template cannot be followed, or has no system message.
    """
    if not turns:
        raise PromptError("a conversation needs at least one turn")
    layout = layout_of(tokenizer, thinking)
    prompt, numbers = _Prompt(tokenizer, image_context_length), count(1)
    if not system:
        prompt.literal(layout.first)
    elif layout.system is None:
        raise UserError('language.system: the chat template of this model has no system message; set it to ""')
    else:
        prompt.literal(layout.system[0])
        prompt.text(system)
        prompt.literal(layout.system[1])
    for index, turn in enumerate(turns):
        last = index == len(turns) - 1
        if index:
            prompt.literal(layout.following)
        if layout.apart:
            prompt.flush()
        question = layout.question(turn.question)
        if picture_numbers:
            question = numbered(question, numbers)
        for position, piece in enumerate(question.split(IMAGE_TOKEN)):
            if position:
                prompt.control(IMAGE_TOKEN)
            prompt.said(piece)
        prompt.literal(layout.opening if last else layout.earlier)
        prompt.flush()
        if turn.answer is not None:
            prompt.said(layout.lead + turn.answer)
            if last or layout.ends_each:
                prompt.control(layout.end)
            prompt.flush(supervised=True)
            prompt.literal(layout.last if last else "")
        elif not last:
            raise PromptError(f"turn {index + 1} of {len(turns)} has no answer; only the last may be open")
    prompt.flush()
    return prompt.input_ids, prompt.labels


def numbered(question: str, numbers: Iterator[int]) -> str:
    """A question with "Picture 1: " before each picture and a line break after it, where it does not have them."""
    before, *pieces = question.split(IMAGE_TOKEN)
    for piece in pieces:
        number = next(numbers)
        label = "" if _NUMBER.search(before) else f"Picture {number}: "
        before += f"{label}{IMAGE_TOKEN}" + ("" if piece.startswith("\n") else "\n") + piece
    return before


class _Prompt:
    """Ids and labels, grown from texts and control tokens. Neighbouring texts are encoded together."""

    def __init__(self, tokenizer: Tokenizer, image_context_length: int) -> None:
        self.tokenizer, self.image_context_length = tokenizer, image_context_length
        self.input_ids: list[int] = []
        self.labels: list[int] = []
        self._ids: list[int] = []  # since the last flush, before the text that waits
        self._text = ""

    def text(self, text: str) -> None:
        """What somebody said: control tokens spelled out in it are ordinary characters."""
        self._text += text

    def said(self, text: str) -> None:
        """A question or an answer: the marks of boxes in it become the model's tokens for them, if it has such."""
        for is_mark, piece in _said(self.tokenizer, text):
            (self.control if is_mark else self.text)(piece)

    def control(self, token: str) -> None:
        """A control token; the placeholder of images as often as a picture has visual tokens."""
        self._encode()
        if token == IMAGE_TOKEN:
            self._ids += picture_ids(self.tokenizer, self.image_context_length)
        else:
            self._ids.append(token_id(self.tokenizer, token))

    def literal(self, text: str) -> None:
        """Text of the layout, in which control tokens are control tokens."""
        for number, piece in enumerate(_pieces(self.tokenizer, text)):
            if number % 2:
                self.control(piece)
            else:
                self.text(piece)

    def flush(self, supervised: bool = False) -> None:
        """End a part of the prompt. What comes next is encoded by itself."""
        self._encode()
        self.input_ids += self._ids
        self.labels += self._ids if supervised else [IGNORE_INDEX] * len(self._ids)
        self._ids = []

    def _encode(self) -> None:
        if self._text:
            self._ids += encode_text(self.tokenizer, self._text)
            self._text = ""


@lru_cache(maxsize=100)
def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """A layout's text, cut at its control tokens: text, control token, text, ..., text."""
    tokens = sorted(tokenizer.added_tokens_encoder, key=len, reverse=True)
    return re.split("(" + "|".join(map(re.escape, tokens)) + ")", text)


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
    fewer = ", or show fewer pictures" if sum(turn.question.count(IMAGE_TOKEN) for turn in turns) > 1 else ""
    if not max_new_tokens:
        raise PromptError(f"{tokens}, language.max_length allows {max_length}")
    raise PromptError(
        f"{tokens}, language.max_length ({max_length}) less max_new_tokens ({max_new_tokens}) allows "
        f"{max_length - max_new_tokens}; ask for a shorter answer or a shorter question{fewer}"
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
