"""What the language model's pretraining asks: batches of message trees with texts or imitated pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info

from dataset.collate import collate
from dataset.prompt import IGNORE_INDEX, Turn, question_with_images
from demo import scenes
from demo.imitation import Picture, draw_patches, draw_picture, stack
from demo.made_up import ANSWERS, LANGUAGES, Level, draw_question, draw_values, draw_word
from demo.texts import tree_of
from demo.vision import WORDS, words_of_patches
from qwen.tokenizer import IMAGE_TOKEN, Tokenizer, token_id

PRACTICE = (*scenes.KINDS, "yes/no")  # twice, because it is learnt last: it compares, the others look something up
CHINESE = {**scenes.SHAPES, **scenes.COLORS, **scenes.SIZES, **scenes.PLACES}
KINDS = ("caption", "scene word", "scene yes/no", "text word", "text yes/no", "picture word", "picture yes/no")


class Phase(NamedTuple):
    """A part of the pretraining."""

    end: float  # share of the steps at which it ends
    languages: tuple[str, ...]  # of the demo's captions and scenes; made-up words are in both
    chat: bool  # ChatML, or plain lines
    lessons: dict[str, int]  # of each sort in a step, each with a text or a picture of its own


# First made-up words alone. With captions in both languages from the start, no word of the answer came from the caption
# after 500 steps. In English alone, four of five did after 250.
MIXED = {"caption": 20, "scene": 10, "text": 12, "picture": 22}
PHASES = (
    Phase(0.35, (), False, {"text": 28, "picture": 36}),
    Phase(0.43, ("en",), False, MIXED),
    Phase(0.5, ("en", "zh"), False, MIXED),
    Phase(1.0, ("en", "zh"), True, MIXED),
)
FIRST_LESSONS = {"text": 64}  # of the first phase, before there are pictures


class Lesson(NamedTuple):
    """A message tree, its picture if it has one, and the kind of each answer."""

    tree: dict[str, Any]
    picture: Picture | None
    kinds: list[str]


def made_up_lesson(
    tokenizer: Tokenizer, rng: random.Random, level: Level, name: str, chat: bool, questions: int
) -> Lesson:
    """Questions about made-up words in a "text" or in an imitated "picture"; ``name`` says which."""
    language = rng.choice(LANGUAGES)
    values = draw_values(rng, language, level)
    words = [own[0] for own in values]
    picture = None
    if name == "picture":
        other = LANGUAGES[language == "en"]  # a projector learns the words of both languages
        both = [*words, *(draw_word(rng, other, level.long) for _ in words)]
        untrue = [word for own in values for word in own[1:]]
        picture = draw_picture([(draw_patches(rng), both)], untrue, tokenizer, rng, unclear=level.long)
    pairs = dict(draw_question(values, rng, language, level) for _ in range(questions))
    text = "\n".join(words)
    talks = [
        [Turn(f"{text}\n{asked}" if picture is None else question_with_images(asked, 1), answer)]
        for asked, answer in pairs.items()
    ]
    kinds = [f"{name} yes/no" if answer in ANSWERS[language] else f"{name} word" for answer in pairs.values()]
    return Lesson(tree_of(tokenizer, talks, chat), picture, kinds)


def caption_lesson(
    tokenizer: Tokenizer,
    rng: random.Random,
    languages: Sequence[str],
    chat: bool,
    questions: int,
    folds: Sequence[int],
) -> Lesson:
    """Questions about a caption of the demo, in ChatML or as plain lines. The caption is the tree's root.

    In ChatML, some questions ask for the caption itself, and some follow another question and its answer. Plain lines
    have neither: the 30 tokens of a caption would be a fourth of the loss at 2 % of the questions, and after 250 steps
    one colour in five was right instead of three in four.
    """
    # With one object there is nothing to look up, because every word of the caption belongs to it.
    scene = scenes.draw_scene(rng, folds=folds, fewest=1 if rng.random() < 0.15 else 2)
    shown = scenes.caption(scene, rng.choice(languages), style=int(rng.random() < 0.3))
    language = rng.choice(languages)
    talks: list[list[Turn]] = []
    for _ in range(questions):
        turns = [_turn(scene, language, rng, chat) for _ in range(1 + (chat and rng.random() < 0.1))]
        turns[0].question = f"{shown}\n{turns[0].question}"
        talks.append(turns)
    return Lesson(tree_of(tokenizer, talks, chat), None, ["caption" for turns in talks for _ in turns])


def _turn(scene: scenes.Scene, language: str, rng: random.Random, describe: bool) -> Turn:
    if describe and rng.random() < 0.02:
        return Turn(rng.choice(scenes.DESCRIBE[language]), scenes.caption(scene, language))
    qa = scenes.ask(scene, language, rng, PRACTICE)
    return Turn(qa.question, qa.answer)


def scene_lesson(
    tokenizer: Tokenizer, rng: random.Random, languages: Sequence[str], chat: bool, questions: int
) -> Lesson:
    """Questions about a scene of the demo in an imitated picture, whose patches name their object's words."""
    scene = scenes.draw_scene(rng, fewest=1 if rng.random() < 0.3 else 2)  # of the training folds
    words = words_of_patches(scene)  # [64, 17]
    objects = []
    for own in words[words.any(1)].unique(dim=0):
        texts = [word for word, named in zip(WORDS, own, strict=True) if named]
        patches = (words == own).all(1).nonzero()[:, 0].tolist()
        objects.append((patches, [*texts, *(CHINESE[text] for text in texts)]))
    language = rng.choice(languages)
    asked = {qa.question: qa for qa in (scenes.ask(scene, language, rng, PRACTICE) for _ in range(questions))}
    talks = [[Turn(question_with_images(qa.question, 1), qa.answer)] for qa in asked.values()]
    kinds = ["scene yes/no" if qa.kind == "yes/no" else "scene word" for qa in asked.values()]
    return Lesson(tree_of(tokenizer, talks, chat), draw_picture(objects, (), tokenizer, rng), kinds)


def draw_lessons(tokenizer: Tokenizer, rng: random.Random, phase: Phase, level: Level) -> list[Lesson]:
    """The lessons of a step."""
    first = not phase.languages and not level.pictures
    questions = 6 if phase.chat else 8 if first else 12
    lessons: list[Lesson] = []
    for name, count in (FIRST_LESSONS if first else phase.lessons).items():
        for _ in range(count):
            if name == "caption":
                folds = range(2, scenes.FOLDS)
                lessons.append(caption_lesson(tokenizer, rng, phase.languages, phase.chat, questions, folds))
            elif name == "scene":
                lessons.append(scene_lesson(tokenizer, rng, phase.languages, phase.chat, questions))
            else:
                # ChatML has no private characters for tokens, so its words are all long.
                own = Level(level.pictures, level.fewest, level.most, 1.0) if phase.chat else level
                lessons.append(made_up_lesson(tokenizer, rng, own, name, phase.chat, questions))
    return lessons


# ---------------------------------------------------------------------------------------------- batches


class Batch(NamedTuple):
    """Lessons as tensors: B trees of at most T tokens, A answers with L tokens in all, K visual tokens.

    Positions are those in ``input_ids.flatten()``, so that nothing has to be searched for on a GPU.
    """

    input_ids: torch.Tensor  # [B, T] int64
    segments: torch.Tensor  # [B, T] int64
    position_ids: torch.Tensor  # [B, T] int64
    images: torch.Tensor  # [K] positions of the visual tokens
    before: torch.Tensor  # [L] positions of the tokens that an answer's tokens follow
    targets: torch.Tensor  # [L] the answers' tokens
    answers: torch.Tensor  # [L] the number of the answer that each of them belongs to
    kinds: torch.Tensor  # [A] each answer's number in KINDS
    pictures: Picture | None

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved = {name: part.to(device) for name, part in self._asdict().items() if isinstance(part, torch.Tensor)}
        pictures = self.pictures and Picture(*(part.to(device) for part in self.pictures))
        return self._replace(**moved, pictures=pictures)


def batch_of(lessons: Sequence[Lesson], tokenizer: Tokenizer) -> Batch:
    """The lessons' trees, padded to the longest, and their pictures."""
    batch = collate([lesson.tree for lesson in lessons], tokenizer.pad_token_id)
    ids, labels = batch["input_ids"], batch["labels"]
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    shifted = labels.roll(-1, 1)  # [B, T], what each token is to predict; no row begins with an answer
    before = (shifted != IGNORE_INDEX).flatten().nonzero()[:, 0]
    targets = shifted.flatten()[before]
    ends = (targets == tokenizer.eos_token_id).long()
    pictures = [lesson.picture for lesson in lessons if lesson.picture is not None]
    return Batch(
        ids,
        batch.get("segments", batch["attention_mask"] - 1),  # a batch of single conversations has no segments
        batch.get("position_ids", positions),
        (ids == token_id(tokenizer, IMAGE_TOKEN)).flatten().nonzero()[:, 0],
        before,
        targets,
        ends.cumsum(0) - ends,
        torch.tensor([KINDS.index(kind) for lesson in lessons for kind in lesson.kinds]),
        stack(pictures) if pictures else None,
    )


class Progress:
    """Which phase and level the lessons are of, in memory that all processes share."""

    def __init__(self) -> None:
        self.numbers = torch.zeros(5, dtype=torch.float64).share_memory_()
        self.set(0, Level())

    def set(self, phase: int, level: Level) -> None:
        self.numbers.copy_(torch.tensor([phase, level.pictures, level.fewest, level.most, level.long]))

    def get(self) -> tuple[Phase, Level]:
        phase, pictures, fewest, most, long = self.numbers.tolist()
        return PHASES[int(phase)], Level(bool(pictures), int(fewest), int(most), long)


class Lessons(IterableDataset[Batch]):
    """Batches without end, as ``progress`` says. Each process that draws them has a seed of its own."""

    def __init__(self, tokenizer: Tokenizer, progress: Progress, seed: int = 0) -> None:
        self.tokenizer, self.progress, self.seed = tokenizer, progress, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}:{worker.id if worker else 0}")
        while True:
            yield batch_of(draw_lessons(self.tokenizer, rng, *self.progress.get()), self.tokenizer)
