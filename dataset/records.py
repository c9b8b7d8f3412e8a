"""From what a record says to turns: captions or messages, with a placeholder for each image.

``process_image.py`` reads records from files, :mod:`dataset.shards` from tar and Parquet; both make turns of them here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dataset.prompt import neutralise
from qwen.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dataset.converters.base import Example, Message

PLACEHOLDER = "<image>"  # LLaVA's mark for an image in a question
CAPTION_QUESTIONS = {
    "zh": (f"{IMAGE_TOKEN}\n请描述这张图片。", f"{IMAGE_TOKEN}\n图中有什么？"),
    "en": (f"{IMAGE_TOKEN}\nDescribe this picture.", f"{IMAGE_TOKEN}\nWhat is in the picture?"),
}

Turns = list[dict[str, Any]]  # [{"q": the question, "a": a list of reference answers}]

KINDS = {  # what JSON gives, for messages
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell half a character, UTF-8 cannot hold it


class RecordError(ValueError):
    """A record that cannot be used; the message is the reason, in one line."""


def turns_from(example: Example, images: int, seed: str, keep_all_captions: bool) -> Turns:
    """The turns of an example that shows ``images`` images.

    Of captions one is drawn, unless all are kept as references, and one of two questions is put before it. ``seed``
    decides both draws.

    Raises:
        RecordError: it cannot be used.
    """
    if not example.captions:
        return turns_of(example.messages, images)
    captions = answers_of(example.captions, "the caption")
    if images != 1:
        raise RecordError(f"a caption belongs to one image, this one has {images}")
    rng = random.Random(seed)
    question = CAPTION_QUESTIONS[example.caption_language][rng.random() < 0.5]
    return [{"q": question, "a": captions if keep_all_captions else [rng.choice(captions)]}]


def turns_of(messages: Sequence[Message], images: int) -> Turns:
    """The turns of messages, with one ``<|extra_0|>`` for each of ``images`` images.

    A question without an answer and an answer without a question are dropped.

    Raises:
        RecordError: no question has an answer.
    """
    questions: list[str] = []
    answers: list[list[str]] = []
    asked: str | None = None
    for number, (role, text) in enumerate(messages):
        if role == "human" and isinstance(text, str):
            asked = text
        elif role == "gpt" and asked is not None:
            questions.append(asked)
            answers.append(answers_of(text, f"message {number}"))
            asked = None
    if not questions:
        raise RecordError("has no question with an answer")
    placed = place_images(questions, images)
    if "" in placed:
        raise RecordError(f"question {placed.index('')} is empty")
    return [{"q": q, "a": a} for q, a in zip(placed, answers, strict=True)]


def place_images(questions: Sequence[str], images: int) -> list[str]:
    """Replace ``<image>`` by ``<|extra_0|>`` for as many images as there are, and neutralise other control tokens.

    A surplus ``<image>`` is text. Images without an ``<image>`` come before the first question.
    """
    left, placed = images, []
    for question in questions:
        first, *others = question.split(PLACEHOLDER)
        text = clean(first)
        for other in others:
            text += (IMAGE_TOKEN if left > 0 else neutralise(PLACEHOLDER)) + clean(other)
            left -= 1
        placed.append(text.strip())
    if left > 0:
        placed[0] = f"{IMAGE_TOKEN * left}\n{placed[0]}".strip()
    return placed


def answers_of(value: object, what: str) -> list[str]:
    """One answer or a list of them, cleaned, without the empty ones."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise RecordError(f"{what} is neither text nor a list of texts")
    kept = [text for text in (clean(text).strip() for text in given) if text]
    if not kept:
        raise RecordError(f"{what} is empty")
    return kept


def clean(text: str) -> str:
    """Text without control tokens, and without halves of surrogate pairs."""
    return neutralise(SURROGATE.sub("\ufffd", text))
