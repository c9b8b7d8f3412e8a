"""AI Challenger's captions.

    {"image_id": "8f00.jpg", "caption": ["两个人在路上交谈", "..."]}

The image may also be under ``image``. The captions are text or a list, under ``caption`` or ``conversations``. A list
of messages there, as LLaVA has them, is read as such.
"""

from __future__ import annotations

from dataset.converters.base import Example, Format, as_object, image_names
from dataset.converters.look import Look
from dataset.converters.messages import conversation
from dataset.records import RecordError


def known_by(look: Look) -> str | None:
    if (
        look.under is None
        and {"image_id", "image"} & look.record.keys()
        and {"caption", "conversations"} & look.record.keys()
    ):
        return "its first record has an image and captions"
    return None


def example(record: object) -> Example:
    return captions_or_messages(record, image_names(record))


def captions_or_messages(record: object, images: list[str]) -> Example:
    """What a record says about its images.

    Raises:
        RecordError: it holds neither captions nor messages.
    """
    record = as_object(record)
    given = next((record[key] for key in ("caption", "conversations", "messages") if record.get(key) is not None), None)
    if isinstance(given, list) and any(isinstance(item, dict) for item in given):
        return Example(*conversation(given, images))
    captions = [given] if isinstance(given, str) else given
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise RecordError("the caption is neither text nor a list of texts")
    return Example(images, captions=captions)


FORMAT = Format("AI Challenger captions", known_by, example)
