"""What the checks look at: the pictures, the conversations and each question of them, all splits together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from dataset.conversations import Named, read_conversations
from dataset.doctor.alike import groups_of_alike
from dataset.doctor.pictures import Pictures, measure_pictures
from dataset.normalise import normalise
from dataset.question_types import is_sentence, kind_of
from qwen.tokenizer import IMAGE_TOKEN
from settings import Config


@dataclass(frozen=True)
class Asked:
    """A question and its reference answers."""

    name: str  # of its conversation, "<image id>/<number>"
    images: tuple[int, ...]
    text: str  # in one line, without the pictures' placeholders
    answers: tuple[str, ...]
    language: str
    source: str
    type: str  # one of dataset.question_types.TYPES, by its words

    @cached_property
    def key(self) -> str:
        """The text in the form in which two questions are compared."""
        return self.text.lower()

    @cached_property
    def accepted(self) -> frozenset[str]:
        """The answers in the form in which two answers are compared."""
        return frozenset(normalise(answer, self.language) for answer in self.answers)

    @cached_property
    def is_short(self) -> bool:
        """Whether a few words are the answer, and no description or explanation."""
        return self.type != "caption" and not all(is_sentence(answer) for answer in self.answers)


class Examined:
    """The result of process_image.py. What takes long is read when a check first asks for it."""

    def __init__(self, config: Config) -> None:
        """
        Raises:
            UserError: the two files cannot be read.
        """
        self.config = config
        self.paths: dict[int, str]
        self.conversations: Named
        self.paths, self.conversations = read_conversations(config.data.image_map, config.data.annotations, None)

    @cached_property
    def questions(self) -> list[Asked]:
        return [
            _asked(name, conversation, turn)
            for name, conversation in self.conversations
            for turn in conversation["turns"]
        ]

    @cached_property
    def short_questions(self) -> list[Asked]:
        """Those about a picture whose answer is a few words."""
        return [asked for asked in self.questions if asked.images and asked.is_short]

    @cached_property
    def pictures(self) -> Pictures:
        data = self.config.data
        return measure_pictures(self.paths, max_pixels=data.max_pixels, workers=data.workers, progress=data.progress)

    @cached_property
    def alike(self) -> list[list[int]]:
        """Groups of two pictures or more, by their ids, that are the same or nearly the same."""
        return groups_of_alike(self.pictures, self.config.data.progress)

    @cached_property
    def splits(self) -> dict[int, set[str]]:
        """The splits of each picture that a conversation shows."""
        splits: dict[int, set[str]] = defaultdict(set)
        for _, conversation in self.conversations:
            for image in conversation["images"]:
                splits[image].add(conversation["split"])
        return splits

    def count_by(self, key: Callable[[dict], str]) -> Counter[str]:
        """How many conversations have each value of ``key``."""
        return Counter(key(conversation) for _, conversation in self.conversations)

    def show(self, images: Sequence[int]) -> str:
        """The files of some pictures."""
        return ", ".join(self.paths[image] for image in images) or "text only"


def _asked(name: str, conversation: dict, turn: dict) -> Asked:
    text = " ".join(turn["q"].replace(IMAGE_TOKEN, " ").split())
    kind, _ = kind_of({**turn, "type": None}, text, conversation["language"])
    return Asked(
        name=name,
        images=tuple(conversation["images"]),
        text=text,
        answers=tuple(turn["a"]),
        language=conversation["language"],
        source=conversation["source"],
        type=kind,
    )
