"""The messages of a conversation, in the spellings that published data sets use."""

from __future__ import annotations

from dataset.converters.base import Message
from dataset.records import RecordError

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def messages_of(given: object) -> list[Message]:
    """LLaVA's messages, [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}].

    Raises:
        RecordError: they are something else.
    """
    if not isinstance(given, list):
        raise RecordError("conversations is not a list of messages")
    messages: list[Message] = []
    for number, message in enumerate(given):
        if not isinstance(message, dict) or message.get("from") not in tuple(ROLES):
            raise RecordError(f"message {number} is not from any of {', '.join(ROLES)}")
        role, text = ROLES[message["from"]], message.get("value")
        if role == "human" and not isinstance(text, str):
            raise RecordError(f"message {number} is a question that is not text")
        if not isinstance(text, str) and not (isinstance(text, list) and all(isinstance(t, str) for t in text)):
            raise RecordError(f"message {number} is neither text nor a list of texts")
        messages.append(Message(role, text))
    return messages
