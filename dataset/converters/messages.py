"""The messages of a conversation, in the spellings that published data sets and trainers use.

{"from": "human", "value": "<image>\\nWhat?"}                                   LLaVA
{"role": "user", "content": "<image>What?"}                                    OpenAI, Hugging Face
{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "What?"}]}
{"from": "user", "value": "Picture 1: <img>a.jpg</img>\\nWhat?"}                 Qwen-VL
{"from": "user", "value": [{"image": "a.jpg"}, {"text": "What?"}]}             Qwen-VL's from_list_format
"""

from __future__ import annotations

import re
from typing import Any

from dataset.converters.base import Message
from dataset.converters.regions import Raw, plain, raw_boxes, write_raw
from dataset.records import PLACEHOLDER, RecordError
from dataset.video import is_video

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}

PARTS = ("text", "image", "image_url", "video", "box")
Marks = list[str | None]  # of each <image> in the questions, in order: its file name, None where it is named elsewhere

_MARK = re.compile(f"{PLACEHOLDER}|<img>([^<>\n]+)</img>")
_NUMBER = re.compile(r"Picture 1: ?(?=<image>)")  # Qwen-VL's label; only several pictures need one


def conversation(given: object, images: list[str]) -> tuple[list[str], list[Message]]:
    """The pictures and the messages of a conversation.

    Args:
        given: its messages, in any of the spellings above.
        images: the file names that the record gives beside the messages.

    Returns:
        all file names, in the order of the <image> marks, those without a mark first; and the messages, in which each
        picture is ``<image>``.

    A message that makes no sense is kept without a role or without text: :mod:`dataset.preparing.turns` drops its turn
    and counts it.

    Raises:
        RecordError: they are not a list, a part of a message is neither text nor an image, or there are more marks than
            pictures.
    """
    if not isinstance(given, list):
        raise RecordError("conversations is not a list of messages")
    marks: Marks = []
    if any(map(is_video, images)):  # its own mark is that of a picture here
        given = [_video_as_image(message) for message in given]
    messages = [_message(message, number, marks) for number, message in enumerate(given)]
    images = _in_order(images, marks)
    if len(images) == 1:
        messages = [Message(m.role, _NUMBER.sub("", m.text)) if isinstance(m.text, str) else m for m in messages]
    return images, messages


def _video_as_image(message: object) -> object:
    """A message whose ``<video>`` marks are ``<image>``: a video is an image of several frames."""
    if not isinstance(message, dict):
        return message
    texts = {key: text for key, text in message.items() if isinstance(text, str)}
    return {**message, **{key: text.replace("<video>", PLACEHOLDER) for key, text in texts.items()}}


def _message(message: object, number: int, marks: Marks) -> Message:
    given = message if isinstance(message, dict) else {}
    said_by, text = given.get("from", given.get("role")), given.get("value", given.get("content"))
    role = ROLES.get(said_by.lower(), "") if isinstance(said_by, str) else ""
    if isinstance(text, list) and any(isinstance(part, dict) for part in text):
        text = _joined([_part(part, f"part {n} of message {number}") for n, part in enumerate(text)])
    if role == "gpt" and isinstance(text, list) and all(isinstance(answer, str) for answer in text):
        return Message(role, text)
    if not isinstance(text, str):
        return Message(role, None)
    if role == "human":
        marks.extend(match[1] for match in _MARK.finditer(text))
        text = _MARK.sub(PLACEHOLDER, text)
    return Message(role, text)


def _joined(parts: list[str]) -> str:
    """The parts of a message as one text, each picture on its own line, as a question that is typed has it."""
    text, after_picture = "", None
    for part in filter(None, parts):
        picture = _MARK.fullmatch(part) is not None
        text += ("" if after_picture in (None, picture) else "\n") + part
        after_picture = picture
    return text


def _part(part: object, what: str) -> str:
    """One part of a message that is a list, as text: a picture becomes <img>...</img>."""
    if isinstance(part, str):
        return part
    given: dict[str, Any] = part if isinstance(part, dict) else {}
    kind = given.get("type") or next((key for key in PARTS if key in given), None)
    if kind == "box":
        name = f"<ref>{plain(given['ref'])}</ref>" if given.get("ref") else ""
        return name + "".join(map(write_raw, _boxes(given["box"], what)))
    if kind == "video":
        kind, given = "image", {"image": given.get("video")}
    if kind not in ("text", "image", "image_url"):
        raise RecordError(f"{what} is {kind!r:.40}, which is neither text nor an image")
    value = given.get(kind)
    if kind == "image_url" and isinstance(value, dict):
        value = value.get("url")
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "image" and value is None:
        return PLACEHOLDER  # the record names it beside the messages
    if kind == "text" or not isinstance(value, str) or not value or not _MARK.fullmatch(f"<img>{value}</img>"):
        raise RecordError(f"{what} is {kind} without {'text' if kind == 'text' else 'a file name'}")
    if value.startswith("data:"):
        raise RecordError(f"{what} holds the picture itself (data:...); write it to a file and name the file")
    return f"<img>{value.removeprefix('file://')}</img>"


def _boxes(box: object, what: str) -> list[Raw]:
    """One box or a list of boxes, as Qwen-VL's ``from_list_format`` takes it."""
    try:
        return raw_boxes(box)
    except RecordError:
        raise RecordError(f"{what} is a box without four numbers") from None


def _in_order(images: list[str], marks: Marks) -> list[str]:
    named = [name for name in marks if name is not None]
    if not named:
        return images
    images = images if set(images) - set(named) else []  # some records name each picture twice
    unnamed = len(marks) - len(named)
    if unnamed > len(images):
        raise RecordError(f"has {len(marks)} image marks, but names {len(named) + len(images)} images")
    first = len(images) - unnamed
    rest = iter(images[first:])
    return images[:first] + [next(rest) if name is None else name for name in marks]
