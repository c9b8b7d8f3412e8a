"""Pictures with their captions, from the two files of process_image.py."""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import UserError
from dataset.conversations import read_conversations
from evaluation.questions import Question, conversation_questions, number_ids
from retrieval.recall import Captioned
from settings import Config, require_paths


def caption_questions(config: Config, split: str, language: str | None = None) -> list[Question]:
    """The requests of a split to describe one picture, in ``language`` or any, with the ids that evaluate.py gives.

    Raises:
        UserError: the files cannot be read, or hold no caption.
    """
    require_paths(config, "data.image_map", "data.annotations")
    read = read_conversations(config.data.image_map, config.data.annotations, split)
    questions = conversation_questions(*read, config.data.images_first)
    number_ids(questions)
    found = [
        question
        for question in questions
        if question.type == "caption" and len(question.images) == 1 and language in (None, question.language)
    ]
    if not found:
        where = f"{config.data.annotations} holds no caption of the split {split}"
        raise UserError(f"{where}{f' in {language}' if language else ''}: two towers learn from captions")
    return found


def captioned(questions: Iterable[Question]) -> list[Captioned]:
    """The pictures of :func:`caption_questions`, each with its captions."""
    found: dict[str, Captioned] = {}
    for question in questions:
        picture = found.setdefault(question.images[0], Captioned(question.images[0]))
        picture.captions += [text for text in dict.fromkeys(question.references) if text not in picture.captions]
    return list(found.values())
