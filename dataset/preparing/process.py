"""Records of any format to conversations: the ids of their images, their turns and their language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset.boxes import SourceBoxes
from dataset.converters import FORMATS, Format
from dataset.converters.base import Example, Message, is_chinese
from dataset.preparing.find import real_path
from dataset.preparing.turns import Talk, Turns, talk_of
from dataset.records import PLACEHOLDER, SURROGATE, RecordError

TEXT_ONLY = "text"  # the key of conversations without an image
SPLITS = ("test", "validation", "train")  # an image that records put into several belongs to the first

_PICTURE_KEY = re.compile(
    "(image|img|picture|pic|photo|frame|video|audio)s?(_?(id|path|file|file_?name|name|url|uri|list|bytes)s?)?", re.I
)
_PICTURE_FILE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic|mp4)$", re.I)

_MARK = re.compile(PLACEHOLDER, re.I)

ImageMap = dict[str, dict[str, Any]]  # name -> {"ID", "path"}
Labelled = list[tuple[str, str]]  # of a video: the name of each frame, and what is written before it
BoxesOf = Callable[[list[Path]], SourceBoxes]
Changes = dict[str, tuple[int, int]]  # what was changed in records -> how often, and the index of the first of them
Annotations = dict[str, list[dict[str, Any]]]  # the first image's ID, as text, or TEXT_ONLY -> conversations


def process_ali(
    records: Iterable[object], paths: dict[str, Path], source: str = "ali", start_ID: int = 0, **options: Any
) -> tuple[ImageMap, Annotations]:
    """Records of AI Challenger: an image (``image_id`` or ``image``) and one caption or several.

    The captions are text or a list under ``caption`` or ``conversations``. One is drawn at random, or all are kept as
    references; one of two Chinese questions is put before it. A list of messages, as LLaVA has them, is read as such.

    Arguments, ``options`` and the result are those of :func:`process_records`.
    """
    return process_records(FORMATS["ali"], records, paths, source, start_ID, **options)


def process_coco(
    records: Iterable[object], paths: dict[str, Path], source: str = "coco", start_ID: int = 0, **options: Any
) -> tuple[ImageMap, Annotations]:
    """Records of LLaVA: conversations of any number of turns about ``image``, or about several, or about none.

    Arguments, ``options`` and the result are those of :func:`process_records`.
    """
    return process_records(FORMATS["llava"], records, paths, source, start_ID, **options)


def process_records(
    form: Format,
    records: Iterable[object],
    paths: dict[str, Path],
    source: str,
    start_ID: int = 0,
    *,
    seed: int = 0,
    keep_all_captions: bool = False,
    language: str = "auto",
    images_per_conversation: int = 1,
    known: dict[str, int] | None = None,
    rejected: list[tuple[int, str]] | None = None,
    changes: Changes | None = None,
    given_splits: dict[int, str] | None = None,
    first: int = 0,
    boxes: BoxesOf | None = None,
    frames: Mapping[str, Labelled] | None = None,
) -> tuple[ImageMap, Annotations]:
    """Conversations of records in one format.

    Args:
        records: as :func:`dataset.preparing.json_reader.read_json` gives them.
        paths: the usable images, by their names in the records. A record with any other image is left out.
        source: the name of the source, kept with every conversation.
        start_ID: the id of the first new image.
        seed: of the draws, which depend on it, on ``source`` and on the record's index alone.
        keep_all_captions: keep all captions of an image as reference answers, instead of drawing one.
        language: "en", "zh", or "auto": Chinese where there is a Chinese character.
        images_per_conversation: the most images that one conversation may have.
        known: resolved path -> id of the images of earlier sources, which keep their ids; extended in place.
        rejected: a list that gets (index, reason) of each record that cannot be used.
        changes: gets what was joined, dropped or removed within records that are kept; extended in place.
        given_splits: gets the split of each image whose record tells one, the first of test, validation and train;
            extended in place.
        first: the index of the first record, where they are given in several calls.
        frames: of each video by its name, the names of its frames in ``paths`` and what is written before each.
        boxes: how the source declares its boxes, for the files of a record's pictures; None: it declares none.

    Returns:
        The map of the new images, {name: {"ID", "path"}}, and the conversations by image id (as text), each under
        its first image, under "text" without one: {"source", "language", "split": "train", "turns": [{"q", "a"}]},
        "id" and "type" (the kind of question) where the record tells them, "system" where it has a system text of its
        own, and "images" with the ids where there are several.
    """
    known = {} if known is None else known
    changes = {} if changes is None else changes
    given_splits = {} if given_splits is None else given_splits
    image_map: ImageMap = {}
    annotations: Annotations = {}
    for index, record in enumerate(records, start=first):
        try:
            example = form.example(record)
            names = example.images
            if not names:
                _refuse_unread_pictures(record)
            if len(names) > images_per_conversation:
                limit = f"data.images_per_conversation allows {images_per_conversation}"
                raise RecordError(f"has {len(names)} images, {limit}")
            example = with_frames(example, frames or {})
            names = example.images
            if any(name not in paths for name in names):
                continue  # the image is in the skip list already
            own = boxes([paths[name] for name in names]) if boxes else None
            talk = talk_of(example, len(names), f"{seed}:{source}:{index}", keep_all_captions, own)
        except RecordError as error:
            if rejected is not None:
                rejected.append((index, str(error)))
            continue
        for change, number in talk.changes.items():
            count, first_index = changes.get(change, (0, index))
            changes[change] = (count + number, first_index)
        names = names[: talk.images]
        for name in names:
            if real_path(paths[name]) not in known:
                known[real_path(paths[name])] = start_ID + len(image_map)
                image_map[name] = {"ID": known[real_path(paths[name])], "path": paths[name].as_posix()}
        conversation = _conversation(example, talk, source, language)
        ids = [known[real_path(paths[name])] for name in names]
        if len(ids) > 1:
            conversation["images"] = ids
        if split := example.split:
            given_splits |= {image: min(given_splits.get(image, split), split, key=SPLITS.index) for image in ids}
        annotations.setdefault(str(ids[0]) if ids else TEXT_ONLY, []).append(conversation)
    return image_map, annotations


def with_frames(example: Example, frames: Mapping[str, Labelled]) -> Example:
    """An example whose videos are their frames: each one's mark becomes a mark for each frame."""
    if not any(name in frames for name in example.images):
        return example
    shown = [frames.get(name, [(name, "")]) for name in example.images]  # (file name, what is before it) of each
    marks = ["".join(f"{label}{PLACEHOLDER}" for _, label in some) for some in shown]
    asked = [number for number, message in enumerate(example.messages) if message.role == "human" and message.text]
    marked = sum(len(_MARK.findall(str(example.messages[number].text))) for number in asked)
    before, rest = marks[: max(0, len(marks) - marked)], iter(marks[max(0, len(marks) - marked) :])
    messages = list(example.messages)
    for number in asked:
        text = _MARK.sub(lambda mark: next(rest, mark[0]), str(messages[number].text))
        messages[number] = Message("human", "".join(before) + "\n" * bool(before) + text)
        before = []
    return replace(example, images=[name for some in shown for name, _ in some], messages=messages)


def _refuse_unread_pictures(record: object) -> None:
    """Refuse a record that was read without a picture although it names one.

    Raises:
        RecordError: a key is called as pictures are, or holds the name of a picture's file.
    """
    for key, value in record.items() if isinstance(record, dict) else ():
        first = value[0] if isinstance(value, list) and value else value
        names_one = isinstance(first, str) and key != "id" and _PICTURE_FILE.search(first)
        if value not in (None, "", [], {}, False) and (names_one or _PICTURE_KEY.fullmatch(key)):
            shown = " ".join(SURROGATE.sub("\ufffd", key).split())[:40]
            raise RecordError(f"names a picture under {shown}, which this format does not read")


def _conversation(example: Example, talk: Talk, source: str, language: str) -> dict[str, Any]:
    spoken = language if language != "auto" else "zh" if _in_chinese(talk.turns) else "en"
    conversation: dict[str, Any] = {"source": source, "language": spoken, "split": "train", "turns": talk.turns}
    if example.split and not talk.images:  # the split of the others follows from their images
        conversation["split"] = example.split
    if talk.system:
        conversation["system"] = talk.system
    for key, value in (("id", example.id), ("type", example.type)):
        if value:
            conversation[key] = SURROGATE.sub("\ufffd", value)
    return conversation


def _in_chinese(turns: Turns) -> bool:
    return any(is_chinese(text) for turn in turns for text in (turn["q"], *turn["a"]))
