"""Which questions are asked: one per turn of the annotations, and a sample of them with ``--limit``.

Every turn is asked alone, without history: earlier reference answers in the prompt would give answers away. It gets the
pictures that its conversation has shown so far.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from dataset.conversations import SPLITS, read_conversations
from dataset.prompt import IMAGE_TOKEN, Turn, images_first, question_with_images
from evaluation.question_types import question_type
from evaluation.scores import MAIN_METRIC, METRICS
from settings import Config, require_paths

HISTORY = "none: each turn is asked alone, with the pictures its conversation has shown so far"


@dataclass
class Question:
    """One turn, the model's answer, the baselines' answers by name, and why it could not be asked (if so)."""

    asked: str  # with a placeholder for each picture
    text: str  # without placeholders
    references: list[str]
    images: list[str]  # paths
    group: str  # for the standard error: the first picture, or the conversation if it has none
    source: str
    language: str
    type: str  # one of question_types.TYPES
    prediction: str | None = None
    baselines: dict[str, str | None] = field(default_factory=dict)
    other_images: list[str] = field(default_factory=list)  # shown for the baseline "other_picture"
    problem: str | None = None

    def score(self, metric: str = MAIN_METRIC) -> float | None:
        """The model's answer by a metric of scores.METRICS; None if it has no answer or the metric does not apply."""
        return self._score(self.prediction, metric)

    def baseline_score(self, name: str, metric: str = MAIN_METRIC) -> float | None:
        """As :meth:`score`, of a baseline's answer."""
        return self._score(self.baselines.get(name), metric)

    def _score(self, answer: str | None, metric: str) -> float | None:
        if answer is None or self.type == "caption" or not METRICS[metric].applies(self.references):
            return None
        return METRICS[metric].score(answer, self.references, self.language)


def read_questions(
    config: Config, split: str | None, files: tuple[Path, Path] | None
) -> tuple[list[Question], list[Question] | None, str]:
    """The questions to ask, the training questions that the baselines are fitted on, and the data's name.

    Without ``files`` (image map, annotations) the run's own are read, and ``split`` defaults to test, or to validation
    where a run has no test split. Of given files every question is asked, unless there is a ``split``. The training
    questions are None where they are asked themselves.

    Raises:
        UserError: the files cannot be read, or hold no question of the split.
    """
    if files is None:
        require_paths(config, "data.image_map", "data.annotations")
    image_map, annotations = files or (config.data.image_map, config.data.annotations)
    first = config.data.images_first
    try:
        read = {name: read_conversations(image_map, annotations, name) for name in SPLITS}
        splits, why = choose_split(split, bool(files), {name for name in SPLITS if read[name][1]})
        asked = [question for name in splits for question in conversation_questions(*read[name], first)]
        train = [] if "train" in splits else conversation_questions(*read["train"], first)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{image_map} and {annotations} cannot be read as what process_image.py writes ({reason})"
        ) from error
    if not asked:
        raise UserError(f"{annotations} holds no question of the split {' or '.join(splits)}; choose another --split")
    train = [question for question in train if question.images and question.type != "caption"]
    return asked, train or None, f"{Path(annotations).as_posix()} ({' and '.join(splits)}{why})"


def choose_split(split: str | None, given_files: bool, filled: set[str]) -> tuple[list[str], str]:
    """The splits to ask, and what has to be said of the choice. ``filled``: those that hold a conversation."""
    if split:
        return [split], ""
    if given_files:
        return [name for name in SPLITS if name in filled] or list(SPLITS), ""
    if "test" not in filled and "validation" in filled:
        return ["validation"], "; there is no test split, and the checkpoint was chosen on these questions"
    return ["test"], ""


def conversation_questions(
    paths: Mapping[int, str | bytes], conversations: Iterable[tuple[str, dict]], first: bool = False
) -> list[Question]:
    """One question per turn. The pictures of earlier turns go before it; with ``first``, its own too."""
    questions = []
    for name, conversation in conversations:
        images = [str(paths[image]) for image in conversation["images"]]
        shown = 0
        for turn in conversation["turns"]:
            asked = question_with_images("", shown) + turn["q"]
            if first:
                asked = images_first([Turn(asked)])[0].question
            shown += turn["q"].count(IMAGE_TOKEN)
            text = " ".join(turn["q"].replace(IMAGE_TOKEN, " ").split())
            questions.append(
                Question(
                    asked=asked,
                    text=text,
                    references=list(turn["a"]),
                    images=images[:shown],
                    group=images[0] if shown and images else name,
                    source=conversation["source"],
                    language=conversation["language"],
                    type=question_type(text, turn["a"]),
                )
            )
    return questions


def sample(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """At most ``limit`` questions, drawn at random from all of them, in their original order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    return [questions[i] for i in sorted(random.Random(seed).sample(range(len(questions)), limit))]
