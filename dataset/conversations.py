"""Reading the two files that process_image.py writes: image paths by id, and the conversations of a split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    from settings import Source

Conversation = dict[str, Any]  # "source", "language", "split", "turns", "images"
SPLITS = ("train", "validation", "test")
NOT_TRAINED_ON = {"validation", "test", "held_out"}  # held_out: what earlier versions called validation
Named = list[tuple[str, Conversation]]  # (name, conversation)


def read_conversations(image_map: Path, annotations: Path, split: str | None) -> tuple[dict[int, str], Named]:
    """Image paths by id, and the (name, conversation) pairs of one split, or of all of them with None.

    Each conversation gets ``images``, a list of ids, empty without an image. Its name is "<image id>/<number>".

    Raises:
        UserError: the files cannot be read, are not what ``process_image.py`` writes, or are of different runs.
    """
    try:
        paths = {int(entry["ID"]): str(entry["path"]) for entry in _read_object(image_map).values()}
        conversations = [
            (f"{key}/{number}", {"images": [] if key == "text" else [int(key)], **checked(conversation), "split": its})
            for key, group in _read_object(annotations).items()
            for number, conversation in enumerate(group)
            if split in (None, its := split_of(conversation))
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(
            f"{image_map} and {annotations} cannot be read as what process_image.py writes ({reason}); run it again"
        ) from error
    missing = {i for _, c in conversations for i in c["images"]} - paths.keys()
    if missing:
        raise UserError(
            f"{annotations} names {len(missing)} images that {image_map} lacks (ID {min(missing)} first): "
            "the two files are of different runs; run process_image.py again"
        )
    return paths, conversations


def split_of(conversation: Conversation) -> str:
    """One of SPLITS. Files of earlier versions call the split that checkpoints were chosen on held_out."""
    split = conversation["split"]
    return "validation" if split == "held_out" else split


def count_pictures(conversations: Iterable[Conversation]) -> dict[str, tuple[int, int]]:
    """Of each source: how many conversations show pictures, and how many show none."""
    counts: dict[str, tuple[int, int]] = {}
    for conversation in conversations:
        shown, none = counts.get(source := conversation.get("source", ""), (0, 0))
        counts[source] = (shown + 1, none) if conversation["images"] else (shown, none + 1)
    return counts


def describe_pictures(counts: Mapping[str, tuple[int, int]], sources: Iterable[Source]) -> list[str]:
    """A line about :func:`count_pictures`, and one for each source that has a folder of images and shows none of them.

    Such a run would learn from text alone, and its loss would look healthy.
    """
    shown_in_all, none_in_all = (sum(numbers) for numbers in zip((0, 0), *counts.values(), strict=True))
    lines = [f"pictures  {shown_in_all:,} conversations show pictures, {none_in_all:,} show none"]
    for source in sources:
        shown, none = counts.get(source.name, (0, 0))
        if none and not shown and source.images:
            lines.append(
                f"WARNING: none of the {none:,} conversations of source {source.name} shows a picture, although it has "
                "a folder of images: they are learnt as text alone; look under which key its records name their images"
            )
    if lines[1:] or shown_in_all or not none_in_all:
        return lines
    return [*lines, "WARNING: no conversation shows a picture: the model would learn from text alone"]


def _read_object(path: Path) -> dict:
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if not isinstance(content, dict):
        raise TypeError(f"{path} holds no object")
    return content


def checked(conversation: Conversation) -> Conversation:
    """The conversation, if its values have the types that ``process_image.py`` writes.

    Raises:
        TypeError, LookupError, AttributeError: they have not.
    """
    texts = [text for turn in conversation["turns"] for text in (turn["q"], *turn["a"])]
    lists = [conversation["turns"], *(turn["a"] for turn in conversation["turns"])]
    if not all(isinstance(each, list) and each for each in lists) or not all(isinstance(text, str) for text in texts):
        raise TypeError("a conversation without turns, or a turn without text")
    if not all(isinstance(conversation.get(key, ""), str) for key in ("system", "type", "id")):
        raise TypeError("a system text, a type or an id that is not text")
    if not all(type(image) is int for image in conversation.get("images", [])):
        raise TypeError("an image's id that is not a whole number")
    return conversation
