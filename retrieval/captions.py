"""Pictures with their captions, from the two files of process_image.py."""

from __future__ import annotations

from common.errors import UserError
from dataset.conversations import read_conversations
from dataset.prompt import IMAGE_TOKEN
from dataset.question_types import kind_of
from retrieval.recall import Captioned
from settings import Config, require_paths


def read_captions(config: Config, split: str, language: str | None = None) -> list[Captioned]:
    """The pictures of a split that have captions: answers to requests to describe one picture, in ``language`` or any.

    Raises:
        UserError: the files cannot be read, or hold no caption.
    """
    require_paths(config, "data.image_map", "data.annotations")
    paths, conversations = read_conversations(config.data.image_map, config.data.annotations, split)
    found: dict[int, Captioned] = {}
    for _, conversation in conversations:
        if len(conversation["images"]) != 1 or language not in (None, conversation["language"]):
            continue
        (image,) = conversation["images"]
        for turn in conversation["turns"]:
            text = turn["q"].replace(IMAGE_TOKEN, " ").strip()
            if kind_of(turn, text, conversation["language"])[0] == "caption":
                picture = found.setdefault(image, Captioned(paths[image]))
                picture.captions += [answer for answer in turn["a"] if answer not in picture.captions]
    if not found:
        where = f"{config.data.annotations} holds no caption of the split {split}"
        raise UserError(f"{where}{f' in {language}' if language else ''}: two towers learn from captions")
    return list(found.values())
