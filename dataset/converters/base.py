"""What every format has in common: a record becomes an :class:`Example`, which knows nothing of the format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dataset.records import KINDS, RecordError


class Message(NamedTuple):
    """One message of a conversation."""

    role: str  # system, human or gpt; "" for any other
    text: str | list[str] | None  # with <image> for each picture; a list of gpt's reference answers; None: not text


@dataclass
class Example:
    """What one record says, in no format: either messages, or captions of one picture."""

    images: list[str] = field(default_factory=list)  # file names, in the order of their <image> marks
    messages: list[Message] = field(default_factory=list)  # as the record has them: in any order, empty ones too
    captions: list[str] = field(default_factory=list)  # one of them is drawn, or all are kept as references
    caption_language: str = "zh"  # of the question that is put before a caption: en or zh
    id: str | None = None  # the record's own
    type: str | None = None  # the kind of question, where the data set tells it
    split: str | None = None  # train, validation or test, where the data set tells it


@dataclass(frozen=True)
class Format:
    """An entry of :data:`dataset.converters.FORMATS`."""

    title: str  # for messages and documentation
    example: Callable[[object], Example]  # raises RecordError: the record cannot be used, with the reason


def image_names(record: object, keys: Sequence[str] = ("image_id", "image", "images")) -> list[str]:
    """The images that a record names under the first of ``keys`` that is not empty; none for text only.

    Raises:
        RecordError: not a record, not names, or a video or sound, which is not read.
    """
    fields = as_object(record)
    for key in ("video", "videos", "audio", "audios"):
        if fields.get(key) not in (None, "", []):
            raise RecordError(f"names a file under {key}, which is not read")
    filled = next((key for key in keys if fields.get(key) not in (None, "", [])), None)
    if filled is None:
        return []
    given = fields[filled] if isinstance(fields[filled], list) else [fields[filled]]
    names: list[Any] = [name.get("path") if isinstance(name, dict) else name for name in given]  # {"path": ...}
    if not all(isinstance(name, str) and name for name in names):
        raise RecordError(f"{filled} is neither a file name nor a list of file names")
    return names


def as_object(record: object) -> dict[str, Any]:
    """The record, if it is a JSON object.

    Raises:
        RecordError: it is something else.
    """
    if not isinstance(record, dict):
        raise RecordError(f"is not an object but {KINDS.get(type(record), type(record).__name__)}")
    return record
