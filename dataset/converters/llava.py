r"""LLaVA's conversations, and what other trainers made of them.

    {"image": "000000458752.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is he doing?"},
                                                    {"from": "gpt", "value": "Pitching."}]}

The pictures are under ``image`` or ``images``, as text or as a list, or inside the messages. The messages are under
``conversations`` or ``messages``, in any spelling of :mod:`dataset.converters.messages`.
"""

from __future__ import annotations

from dataset.converters.base import Example, Format, as_object, image_names
from dataset.converters.look import Look
from dataset.converters.messages import conversation


def known_by(look: Look) -> str | None:
    key = next((key for key in ("conversations", "messages") if key in look.record), None)
    said = look.record.get(key) if key else None
    if look.under is None and isinstance(said, list) and all(isinstance(message, dict) for message in said):
        return f"its first record has messages under {key}"
    return None


def example(record: object) -> Example:
    fields = as_object(record)
    given = fields["messages"] if fields.get("conversations") is None and "messages" in fields else None
    images, messages = conversation(given or fields.get("conversations"), image_names(record, ("image", "images")))
    return Example(images, messages)


FORMAT = Format("LLaVA conversations", known_by, example)
