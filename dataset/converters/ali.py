"""AI Challenger's captions.

    {"image_id": "8f00.jpg", "caption": ["两个人在路上交谈", "..."]}

The image may also be under ``image``. The captions are text or a list, under ``caption`` or ``conversations``. A list
of messages there, as LLaVA has them, is read as such.
"""

from __future__ import annotations

from dataclasses import replace

from dataset.converters.base import Example, Format, as_object, image_names
from dataset.converters.messages import messages_of
from dataset.records import RecordError


def example(record: object) -> Example:
    return replace(captions_or_messages(record), images=image_names(record))


def captions_or_messages(record: object) -> Example:
    """What a record says, without its images.

    Raises:
        RecordError: it holds neither captions nor messages.
    """
    record = as_object(record)
    given = record.get("caption")
    given = record.get("conversations") if given is None else given
    if isinstance(given, list) and any(isinstance(item, dict) for item in given):
        return Example(messages=messages_of(given))
    captions = [given] if isinstance(given, str) else given
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise RecordError("the caption is neither text nor a list of texts")
    return Example(captions=captions)


FORMAT = Format("AI Challenger captions", example)
