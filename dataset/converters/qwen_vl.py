r"""Qwen-VL's training data, and ms-swift's: pictures are named inside the text.

    {"conversations": [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\nWhat is this?"},
                       {"from": "assistant", "value": "A dog."}]}
    {"query": "<img>a.jpg</img>What is this?", "response": "A dog.", "history": [["Hello", "Hello!"]]}
    {"query": [{"image": "a.jpg"}, {"text": "What is this?"}], "response": "A dog."}

The last is what Qwen-VL's ``from_list_format`` takes; a message may hold such a list too.
"""

from __future__ import annotations

from typing import Any

from dataset.converters import llava
from dataset.converters.base import Example, Format, as_object, image_names
from dataset.converters.look import Look
from dataset.converters.messages import conversation
from dataset.records import RecordError


def known_by(look: Look) -> str | None:
    if look.kind != "json" or look.under is not None:
        return None
    if {"query", "response"} <= look.record.keys():
        return "its first record has query and response"
    given = look.record.get("conversations", look.record.get("messages"))
    texts = [m.get("value", m.get("content")) for m in given if isinstance(m, dict)] if isinstance(given, list) else []
    if any(isinstance(text, str) and "<img>" in text for text in texts):
        return "its first record has <img> in a message"
    return None


def example(record: object) -> Example:
    fields = as_object(record)
    if "query" not in fields:
        return llava.example(record)
    history = fields.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise RecordError("history is not a list of pairs, [question, answer]")
    messages: list[dict[str, Any]] = [{"from": "system", "value": fields["system"]}] if fields.get("system") else []
    for question, answer in [*history, [fields["query"], fields.get("response")]]:
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return Example(*conversation(messages, image_names(record, ("images", "image"))))


FORMAT = Format("Qwen-VL's or ms-swift's training data", known_by, example)
