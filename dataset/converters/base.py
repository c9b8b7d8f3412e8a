"""What every format has in common: a record becomes an :class:`Example`, which knows nothing of the format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dataset.preparing.json_reader import read_records
from dataset.records import KINDS, RecordError

if TYPE_CHECKING:
    from dataset.converters.look import Look

# What data sets call their splits. "restval" is the part of COCO's validation images that Karpathy's split trains on;
# RefCOCO has a testA and a testB.
SPLITS = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "testa", "testb"), "test"),
}

VIDEO_KEYS = ("video", "videos")
ADDED = ("row", "about", "ask")  # keys that readers add to records for messages and names

_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


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


class File(NamedTuple):
    """One file of annotations, with what the source says about it."""

    path: Path
    questions: Path | None = None  # of formats that keep questions and answers in two files
    pictures: Path | None = None  # where pictures that are inside the file are written; None: they are only named
    columns: Mapping[str, str] = {}  # our name of a column -> its name in the file


@dataclass(frozen=True)
class Format:
    """An entry of :data:`dataset.converters.FORMATS`."""

    title: str  # for messages
    known_by: Callable[[Look], str | None]  # the sign by which a file of this format is known, None where it is not one
    # The record's content; RecordError with the reason where it cannot be used. A record may be a RecordError itself.
    example: Callable[[object], Example]
    read: Callable[[File], Iterator[object]] = lambda file: read_records(file.path)
    columns: tuple[str, ...] = ()  # the names that `columns:` may give; () where the format has no columns
    needs_questions: bool = False  # questions are in a second file, `questions:`
    embedded: bool = False  # the pictures are inside the file
    box_order: str | None = None  # xyxy or xywh: of the boxes that its records always have; None: texts may hold some


def image_names(record: object, keys: Sequence[str] = ("image_id", "image", "images")) -> list[str]:
    """The images that a record names under the first of ``keys`` that is not empty, or else its videos.

    Raises:
        RecordError: not a record, not names, or a sound, which is not read; images and videos in one record.
    """
    fields = as_object(record)
    for key in ("audio", "audios"):
        if fields.get(key) not in (None, "", []):
            raise RecordError(f"names a file under {key}, which is not read")
    named = [key for key in (*keys, *VIDEO_KEYS) if fields.get(key) not in (None, "", [])]
    if not named:
        return []
    filled = named[0]
    if filled not in VIDEO_KEYS and named[-1] in VIDEO_KEYS:
        raise RecordError(f"names images under {filled} and a video under {named[-1]}; only one kind is read")
    given = fields[filled] if isinstance(fields[filled], list) else [fields[filled]]
    names: list[Any] = [name.get("path") if isinstance(name, dict) else name for name in given]  # {"path": ...}
    if not all(isinstance(name, str) and name for name in names):
        raise RecordError(f"{filled} is neither a file name nor a list of file names")
    return names


def as_object(record: object) -> dict[str, Any]:
    """The record, if it is a JSON object.

    Raises:
        RecordError: it is something else; ``record`` itself, where it is such an error.
    """
    if isinstance(record, RecordError):
        raise record
    if not isinstance(record, dict):
        raise RecordError(f"is not an object but {KINDS.get(type(record), type(record).__name__)}")
    return record


def texts(value: object, what: str) -> list[str]:
    """Text, or a list of texts, as a list.

    Raises:
        RecordError: it is neither; begins with ``what``.
    """
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise RecordError(f"{what} is neither text nor a list of texts")
    return given


def text_of(record: dict[str, Any], key: str) -> str:
    """The text or whole number under ``key``, as text.

    Raises:
        RecordError: it is missing, empty, or something else.
    """
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise RecordError(f"{key} is {'empty' if isinstance(value, str) else 'missing, or not text'}")
    return value


def question_and_answers(question: str, answers: list[str], images: list[str], **more: str | None) -> Example:
    """A question about its pictures, which are put before it, and its reference answers."""
    return Example(images, [Message("human", question), Message("gpt", answers)], **more)  # type: ignore[arg-type]


def captioned(image: str, captions: list[str], split: str | None = None) -> Example:
    """A picture with its captions, in the language that they are written in."""
    language = "zh" if any(map(is_chinese, captions)) else "en"
    return Example([image], captions=captions, caption_language=language, split=split)


def is_chinese(text: str) -> bool:
    return _CHINESE.search(text) is not None
