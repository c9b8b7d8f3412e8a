"""Which questions are asked: one per turn of the annotations, and a sample of them with ``--limit``.

Every turn is asked alone, without history: earlier reference answers in the prompt would give answers away. It gets the
pictures that its conversation has shown so far.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from dataset.boxes import without_boxes
from dataset.choices import chosen_label
from dataset.conversations import SPLITS, read_conversations
from dataset.prompt import IMAGE_TOKEN, Turn, images_first, question_with_images
from dataset.question_types import kind_of
from evaluation.question_forms import begins_with, first_of, frequent_beginnings
from evaluation.scores import DEFAULT_METRIC, METRICS, check_metric, check_metrics, metric_for
from settings import Config, require_paths

HISTORY = "none: each turn is asked alone, with the pictures its conversation has shown so far"


@dataclass
class Question:
    """One turn, the model's answer, the baselines' answers by name, and why it could not be asked (if so).

    ``options`` are those of a multiple-choice question. All answers to it, references too, are compared by the label
    of the option that they choose.
    """

    asked: str  # with a placeholder for each picture
    text: str  # without placeholders
    references: list[str]
    images: list[str]  # paths
    group: str  # for the standard error: the first picture, or the conversation if it has none
    source: str
    language: str
    type: str  # the data's own, one of question_types.TYPES, or how the question begins
    id: str = ""
    options: list[str] = field(default_factory=list)
    metric: str = DEFAULT_METRIC  # of scores.METRICS
    system: str | None = None  # the conversation's own system text
    prediction: str | None = None
    baselines: dict[str, str | None] = field(default_factory=dict)
    other_images: list[str] = field(default_factory=list)  # shown for the baseline "other_picture"
    corrupted: dict[str, str] = field(default_factory=dict)  # answers about worse pictures, by corrupting.Case.name
    named: list[str] = field(default_factory=list)  # pictures that the answer is a name of
    problem: str | None = None
    chance: float | None = None  # of guessing, where it does not follow from the options
    ceiling: float | None = None  # what the best answer scores

    def score(self, metric: str | None = None) -> float | None:
        """The model's answer by its source's metric, or by ``metric``; None if it has no answer or is a caption."""
        return self.score_of(self.prediction, metric)

    def baseline_score(self, name: str) -> float | None:
        """As :meth:`score`, of a baseline's answer."""
        return self.score_of(self.baselines.get(name))

    def score_of(self, answer: str | None, metric: str | None = None) -> float | None:
        """As :meth:`score`, of any answer."""
        if answer is None or self.type == "caption":
            return None
        references = [self.chosen(reference) for reference in self.references]
        return METRICS[metric or self.metric].score(self.chosen(answer), references, self.language)

    @property
    def words(self) -> str:
        """The question's text without boxes."""
        return without_boxes(self.text)

    @property
    def metrics(self) -> list[str]:
        """The metrics that the question is scored by: its source's, and those that apply to its references."""
        if METRICS[self.metric].alone:
            return [self.metric]
        return [name for name, metric in METRICS.items() if name == self.metric or metric.beside(self.references)]

    def chosen(self, answer: str) -> str:
        """The label of the option that an answer chooses; the answer itself if it chooses none, or none is offered."""
        return (chosen_label(answer, self.options, self.language) if self.options else None) or answer


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
    name_beginnings(asked, train)
    number_ids(asked)
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
        for number, turn in enumerate(conversation["turns"]):
            asked = question_with_images("", shown) + turn["q"]
            if first:
                asked = images_first([Turn(asked)])[0].question
            shown += turn["q"].count(IMAGE_TOKEN)
            text = " ".join(turn["q"].replace(IMAGE_TOKEN, " ").split())
            own = {key: conversation[key] for key in ("type", "options", "id") if key in conversation} | turn
            kind, options = kind_of(own, text, conversation["language"])
            questions.append(
                Question(
                    asked=asked,
                    text=text,
                    references=list(turn["a"]),
                    images=images[:shown],
                    group=images[0] if shown and images else name,
                    source=conversation["source"],
                    language=conversation["language"],
                    type=kind,
                    id=f"{conversation['source']}/{own['id']}" if "id" in own else f"{name}/{number}",
                    options=options,
                    system=conversation.get("system") or None,
                )
            )
    return questions


def name_beginnings(asked: Sequence[Question], train: Sequence[Question]) -> None:
    """Give questions of the type "other" their first words as type, if they are frequent among the ``asked``."""
    kept = frequent_beginnings([question.words for question in asked if question.type == "other"])
    for question in [*asked, *train]:
        if question.type == "other":
            question.type = first_of(begins_with(question.words), kept) or "other"


def number_ids(questions: Sequence[Question]) -> None:
    """Add /2, /3, ... to an id that several questions have, such as the turns of one record."""
    count: Counter[str] = Counter()
    for question in questions:
        count[question.id] += 1
        if (number := count[question.id]) > 1:
            question.id = f"{question.id}/{number}"


def choose_metrics(questions: Iterable[Question], config: Config, given: Sequence[str]) -> dict[str, str]:
    """Give each question its metric, and return the metric of each source.

    ``given`` are NAME or SOURCE=NAME from the command line. They go before ``data.sources[].metric``; a source that
    has neither, such as one of other data than the run's, is scored by exact match.

    Raises:
        UserError: there is no such metric or source.
    """
    sources = sorted({question.source for question in questions})
    chosen = {source.name: source.metric for source in config.data.sources}
    check_metrics(config.data.sources)
    for text in given:
        source, separator, name = text.rpartition("=")
        check_metric(name, "--metric")
        if separator and source not in sources:
            raise UserError(f"--metric {text}: no question is of the source {source!r}, only of {', '.join(sources)}")
        chosen |= dict.fromkeys([source] if separator else sources, name)
    metrics = {source: chosen.get(source, DEFAULT_METRIC) for source in sources}
    for question in questions:
        question.metric = metric_for(question.references, metrics[question.source])
    return metrics


def sample(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """At most ``limit`` questions, drawn at random from all of them, in their original order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    return [questions[i] for i in sorted(random.Random(seed).sample(range(len(questions)), limit))]
