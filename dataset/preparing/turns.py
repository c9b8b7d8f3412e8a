"""From the messages of a record to turns: what is joined, what is dropped, and how often, by reason.

- Consecutive messages of one role are joined with a newline.
- An answer before the first question and a question after the last answer are dropped.
- System messages become the system text of the conversation, which replaces ``language.system`` for it.
- A turn with an empty message, one that is not text or one of another role is dropped. The other turns stay.
- Control tokens in questions are spread out (:func:`dataset.prompt.neutralise`). In answers they are removed: a model
  learns what is in answers, ``< image >`` too.
- Boxes of a source that declares them are brought into the neutral form (dataset/boxes.py); a turn with a box that
  cannot be used is dropped. In all other sources their marks are text like any other.

``process_image.py`` reads records from files, :mod:`dataset.shards` from tar and Parquet; both make turns here.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from dataset.boxes import BoxError, SourceBoxes
from dataset.prompt import neutralise
from dataset.records import PLACEHOLDER, SURROGATE, RecordError
from qwen.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dataset.converters.base import Example, Message

CAPTION_QUESTIONS = {
    "zh": (f"{IMAGE_TOKEN}\n请描述这张图片。", f"{IMAGE_TOKEN}\n图中有什么？"),
    "en": (f"{IMAGE_TOKEN}\nDescribe this picture.", f"{IMAGE_TOKEN}\nWhat is in the picture?"),
}

JOINED = "message joined with the one before it, of the same role"
LEADING = "answer before the first question dropped"
TRAILING = "question without an answer at the end dropped"
EMPTY_QUESTION = "turn with an empty question dropped"
EMPTY_ANSWER = "turn with an empty answer dropped"
NOT_TEXT = "turn with a message that is not text dropped"
OTHER_ROLE = "turn with a message that is not from human, gpt or system dropped"
REFERENCES = "turn with several answers in a row, one of them a list, dropped"
SYSTEM_NOT_TEXT = "system message that is not text dropped"
NOT_SHOWN = "image left out: only a dropped question shows it"
IMAGE_IN_ANSWER = "answer with a placeholder of an image, which was removed"
CONTROL_IN_ANSWER = "answer with a control token, which was removed"

Turns = list[dict[str, Any]]  # [{"q": the question, "a": a list of reference answers}]

_MARK = re.compile(PLACEHOLDER, re.IGNORECASE)  # an image in a question
# Marks that other projects use for images, videos and sound, and that no converter has replaced by <image>.
_OTHER_MARK = re.compile(
    r"<img>[^<>]*</img>|<(?:video|audio|imagehere|img_context|im_start|im_patch|im_end)>"
    r"|<\|?(?:image|img|picture|video|audio)[ _-]?\d+\|?>|<\|(?:image|img|vision|video|audio)(?:_[a-z]+)?\|>",
    re.IGNORECASE,
)
_IMAGE_IN_ANSWER = re.compile(f" ?(?:{_MARK.pattern}|<img>[^<>]*</img>|{re.escape(IMAGE_TOKEN)})", re.IGNORECASE)
_CONTROL_IN_ANSWER = re.compile(r" ?<\|[^<>|\s]{1,40}\|>")


@dataclass
class Talk:
    """What a record says, as turns."""

    turns: Turns
    images: int  # how many of the record's images are shown: the first ones
    system: str = ""  # the record's own system text
    changes: Counter[str] = field(default_factory=Counter)  # reason -> how often something was joined, dropped, removed


@dataclass
class _Run:
    """Consecutive messages of one role."""

    role: str  # human or gpt
    texts: list[str | list[str]] = field(default_factory=list)
    fault: str | None = None  # why its turn is dropped

    def question(self) -> str:
        return "\n".join(text.strip("\n") for text in self.texts if isinstance(text, str) and text.strip())

    def answers(self) -> list[str]:
        """The reference answers."""
        given = [[text] if isinstance(text, str) else text for text in self.texts if text]
        if len(given) == 1:
            return given[0]
        return ["\n".join(text for texts in given for text in texts if text.strip())]


def talk_of(
    example: Example, images: int, seed: str, keep_all_captions: bool, boxes: SourceBoxes | None = None
) -> Talk:
    """The turns of an example about ``images`` images, from its messages or from its captions.

    Of captions one is drawn, unless all are kept as references, and one of two questions is put before it. ``seed``
    decides both draws. ``boxes``: how the source declares its boxes.

    Raises:
        RecordError: it cannot be used.
    """
    if not example.captions:
        return talk_from(example.messages, images, boxes)
    if images != 1:
        raise RecordError(f"a caption belongs to one image, this one has {images}")
    changes: Counter[str] = Counter()
    captions = _clean_answers(example.captions, changes, Cleaner(changes, boxes, images))
    if not captions:
        raise RecordError("the caption is empty")
    rng = random.Random(seed)
    question = CAPTION_QUESTIONS[example.caption_language][rng.random() < 0.5]
    kept = captions if keep_all_captions else [rng.choice(captions)]
    return Talk([{"q": question, "a": kept}], 1, changes=changes)


def talk_from(messages: Sequence[Message], images: int, boxes: SourceBoxes | None = None) -> Talk:
    """The turns of messages about ``images`` images, with one ``<|extra_0|>`` for each image that is shown.

    The images are those of the ``<image>`` marks in the questions, in order. Images without a mark come before the
    first question. Marks of a dropped question go to the next one that is kept; after the last one their images are
    left out, unless the conversation would then show none.

    Raises:
        RecordError: there are more marks than images, a mark of another kind, or no turn that can be used.
    """
    changes: Counter[str] = Counter()
    system, runs = _runs(messages, changes)
    marks = {id(run): len(_MARK.findall(run.question())) for run in runs if run.role == "human"}
    _check_marks([system, *(run.question() for run in runs if run.role == "human")], images)
    waiting = images - sum(marks.values())  # images that the next question shows in front
    cleaner = Cleaner(changes, boxes, images)
    turns: Turns = []
    for asked, answered in _pairs(runs, changes):
        before = cleaner.shown
        cleaner.shown += waiting
        try:
            question = _placed(asked.question(), waiting, cleaner)
            answers = _clean_answers(answered.answers(), changes, cleaner) if answered else []
            fault = _fault(asked, answered, question, answers)
        except BoxError as error:
            fault = str(error)
        if fault:
            changes[fault] += 1
            cleaner.shown = before
            waiting += marks[id(asked)]
        else:
            turns.append({"q": question, "a": answers})
            waiting = 0
    if not turns:
        found = "; ".join(reason for reason in changes if reason != JOINED)
        raise RecordError("has no question with an answer" + f" ({found})" * bool(found))
    if images and waiting == images:  # no question that was kept has a mark
        turns[0]["q"], waiting = f"{IMAGE_TOKEN * images}\n{turns[0]['q']}", 0
    elif waiting:
        changes[NOT_SHOWN] += waiting
    return Talk(turns, images - waiting, _cleaned(_MARK.sub("", system)).strip(), changes)


def _runs(messages: Sequence[Message], changes: Counter[str]) -> tuple[str, list[_Run]]:
    """The system text, and the other messages in runs: human, gpt, human, ... or gpt first."""
    system: list[str] = []
    runs: list[_Run] = []
    for role, text in messages:
        if role == "system":
            if isinstance(text, str):
                system.append(text)
            else:
                changes[SYSTEM_NOT_TEXT] += 1
            continue
        known = role in ("human", "gpt")
        if not runs or (known and runs[-1].role != role):
            runs.append(_Run(role if known else "human"))
        elif known and text and any(runs[-1].texts):
            changes[JOINED] += 1
        run = runs[-1]
        if not known:
            run.fault = OTHER_ROLE
        elif text is None or (role == "human" and not isinstance(text, str)):
            run.fault = NOT_TEXT
        else:
            run.texts.append(text)
    return "\n".join(system), runs


def _pairs(runs: list[_Run], changes: Counter[str]) -> Iterator[tuple[_Run, _Run | None]]:
    """Each question with its answer; the last one may have none."""
    if runs and runs[0].role == "gpt":
        changes[LEADING] += 1
        runs = runs[1:]
    yield from zip_longest(runs[::2], runs[1::2])


def _fault(asked: _Run, answered: _Run | None, question: str, answers: list[str]) -> str | None:
    """Why a turn is dropped, or None."""
    if fault := asked.fault or (answered and answered.fault):
        return fault
    if answered is None:
        return TRAILING
    if len(answered.texts) > 1 and any(isinstance(text, list) and len(text) > 1 for text in answered.texts):
        return REFERENCES
    return EMPTY_ANSWER if not answers else EMPTY_QUESTION if not question else None


def _check_marks(texts: list[str], images: int) -> None:
    """Refuse a record that shows more than it names.

    Raises:
        RecordError: there are more ``<image>`` than images, or marks of another kind.
    """
    found = sum(len(_MARK.findall(text)) for text in texts)
    if found > images and not images:
        raise RecordError("a question has <image>, and the record names no image")
    if found > images:
        raise RecordError(f"its questions have {found} <image>, and the record names {images}")
    for text in texts:
        if other := _OTHER_MARK.search(text):
            raise RecordError(f"a question has {_shown(other[0])}, which is not read as an image")


def _placed(text: str, waiting: int, cleaner: Cleaner) -> str:
    """A question with ``<|extra_0|>`` where its ``<image>`` are, after ``waiting`` images that come before it."""
    pieces = []
    for number, piece in enumerate(_MARK.split(text)):
        cleaner.shown += bool(number)
        pieces.append(cleaner.question(piece))
    placed = IMAGE_TOKEN.join(pieces)
    return f"{IMAGE_TOKEN * waiting}\n{placed}".strip()


def _clean_answers(given: Sequence[str], changes: Counter[str], cleaner: Cleaner) -> list[str]:
    """Reference answers without control tokens and without the empty ones."""
    kept: list[str] = []
    removed: Counter[str] = Counter()
    for text in given:
        text, images = _IMAGE_IN_ANSWER.subn("", text)
        removed[IMAGE_IN_ANSWER] += images
        kept.append(cleaner.answer(text, removed).strip())
    changes.update(reason for reason, number in removed.items() if number)
    return [text for text in kept if text]


@dataclass
class Cleaner:
    """Text of a record as it is kept: its control tokens spread out or removed, its boxes in the neutral form."""

    changes: Counter[str]
    boxes: SourceBoxes | None
    images: int  # of the record
    shown: int = 0  # of these, before the text that comes next

    def question(self, text: str) -> str:
        """Raises BoxError, as :meth:`answer` does."""
        return self._cleaned(text, _cleaned)

    def answer(self, text: str, removed: Counter[str]) -> str:
        """``removed`` counts the control tokens that were removed."""

        def clean(piece: str) -> str:
            piece, tokens = _CONTROL_IN_ANSWER.subn("", piece)
            removed[CONTROL_IN_ANSWER] += tokens
            return _cleaned(piece)

        return self._cleaned(text, clean)

    def _cleaned(self, text: str, clean: Callable[[str], str]) -> str:
        if self.boxes is None:
            return clean(text)
        picture = max(0, self.shown - 1) if self.images else -1
        return self.boxes.neutral(text, picture, self.changes, clean)


def _cleaned(text: str) -> str:
    """Text whose control tokens are spread out, and without halves of surrogate pairs."""
    return neutralise(SURROGATE.sub("\ufffd", text))


def _shown(mark: str) -> str:
    return " ".join(mark.split())[:40]
