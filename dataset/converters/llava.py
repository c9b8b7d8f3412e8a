r"""LLaVA's conversations.

    {"image": "000000458752.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is he doing?"},
                                                    {"from": "gpt", "value": "Pitching."}]}

``image`` may be a list. Without it, the record is a conversation without a picture.
"""

from __future__ import annotations

from dataset.converters.base import Example, Format, as_object, image_names
from dataset.converters.messages import messages_of


def example(record: object) -> Example:
    images = image_names(record, ("image",))
    return Example(images, messages_of(as_object(record).get("conversations")))


FORMAT = Format("LLaVA conversations", example)
