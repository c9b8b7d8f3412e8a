"""A request as messages: the form that chat templates and OpenAI's protocol share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from dataset.prompt import IMAGE_TOKEN, Request, neutralise

Message = dict[str, Any]


def messages_of(request: Request, system: str, picture: Callable[[Image.Image], dict[str, Any]]) -> list[Message]:
    """One message for each role, whose content is a list of parts; ``picture`` makes a part of an image.

    ``system`` is used where the request has no system text of its own; no message is made of "".
    """
    images = iter(request.images)
    system = system if request.system is None else request.system
    messages = [_message("system", [_text(system)])] if system else []
    for turn in request.turns:
        parts = []
        for number, text in enumerate(turn.question.split(IMAGE_TOKEN)):
            if number:
                parts.append(picture(next(images)))
            if text.strip():
                parts.append(_text(neutralise(text.strip())))
        messages.append(_message("user", parts))
        if turn.answer is not None:
            messages.append(_message("assistant", [_text(turn.answer)]))
    return messages


def _message(role: str, content: list[dict[str, Any]]) -> Message:
    return {"role": role, "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
