"""The questions that a classifier can learn to answer, and the check that refuses captions where answers belong."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from baselines.answers import Answers, find_answers
from baselines.words import Words, find_words
from common.errors import UserError
from dataset.doctor.checks import fitting
from dataset.doctor.examined import Asked, Examined
from settings import Config

# Each finds labels that do not belong to the questions. Whoever trains on such labels gets a model that says "the".
LABEL_CHECKS = (fitting.unfit_answers, fitting.same_answer_to_all, fitting.empty_words, fitting.answers_that_ask)


@dataclass(frozen=True)
class Examples:
    """Short questions about one picture each, by split, and the vocabularies of the training split."""

    train: list[Asked]
    validation: list[Asked]
    paths: dict[int, str]  # of the pictures, by their ids
    words: Words
    answers: Answers
    left_out: str  # what is in neither list, as a line for a person; "" if nothing

    def pictures(self) -> list[str]:
        """The paths of all pictures, those of the training split first."""
        return list(dict.fromkeys(self.paths[asked.images[0]] for asked in [*self.train, *self.validation]))

    def with_pictures(self, readable: Collection[str], most_missing: float) -> Examples:
        """The examples whose picture can be read.

        Raises:
            UserError: more than the share ``most_missing`` of the pictures cannot be read.
        """
        missing = [path for path in self.pictures() if path not in readable]
        if len(missing) > most_missing * len(self.pictures()):
            raise UserError(
                f"{len(missing):,} pictures cannot be read, {missing[0]} first; data.max_skipped allows "
                f"{most_missing:.1%}; run process_image.py again"
            )
        train, validation = (
            [asked for asked in own if self.paths[asked.images[0]] in readable] for own in (self.train, self.validation)
        )
        return replace(self, train=train, validation=validation)


def read_examples(config: Config) -> Examples:
    """The examples in the files of process_image.py.

    Raises:
        UserError: the labels are not answers to the questions, or a split is empty.
    """
    data = Examined(config)
    check_labels(config, data)
    split = {name: conversation["split"] for name, conversation in data.conversations}
    by_split: dict[str, list[Asked]] = {"train": [], "validation": [], "test": []}
    for asked in data.questions:
        if asked.is_short and len(asked.images) == 1:
            by_split[split[asked.name]].append(asked)
    for name in ("train", "validation"):
        if not by_split[name]:
            raise UserError(
                f"data.annotations = {config.data.annotations}: no short question about one picture in the {name} "
                "split; the best epoch is chosen on the validation split, so both need some (data.validation)"
            )
    train = by_split["train"]
    words, answers = Words(find_words(a.text for a in train)), Answers(find_answers(train, config.baselines.answers))
    learnt = [asked for asked in train if answers.votes(asked)]
    return Examples(learnt, by_split["validation"], data.paths, words, answers, describe_left_out(data.questions))


def check_labels(config: Config, data: Examined) -> None:
    """Refuse data whose answers are captions, or belong to other questions.

    Raises:
        UserError: says what is wrong, and what to do.
    """
    key = f"data.annotations = {config.data.annotations}"
    warning = 'every answer would be "the"'
    if data.questions and not any(asked.is_short for asked in data.questions):
        raise UserError(
            f"{key}: all {len(data.questions):,} answers are captions or whole sentences, and {warning}; use "
            "annotations whose answers are a few words, such as VQA v2, or train a language model with train.py"
        )
    for check in LABEL_CHECKS:
        if finding := check(data):
            example = f" ({finding.examples[0]})" if finding.examples else ""
            raise UserError(f"{key}: {finding.problem}{example}; {warning}; {finding.advice}")


def describe_left_out(questions: Sequence[Asked]) -> str:
    """What no model here can learn, in a line."""
    long = sum(not asked.is_short for asked in questions)
    pictures = sum(asked.is_short and len(asked.images) != 1 for asked in questions)
    counts = {"ask for a caption or are answered by sentences": long, "show no picture or several": pictures}
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def describe(examples: Examples, config: Config) -> list[str]:
    """The vocabularies and what they cover, as lines for a person."""
    train, validation = examples.train, examples.validation
    learnt = f"{len(train):,} questions to learn, {len(validation):,} held out"
    lines = [f"data      {learnt}; {len(examples.words.words):,} different words"]
    if examples.left_out:
        lines.append(f"left out  of all splits: {examples.left_out}")
    covered = examples.answers.known_share(validation)
    lines.append(
        f"answers   {len(examples.answers):,} (at most baselines.answers = {config.baselines.answers:,}); they cover "
        f"{covered:.1%} of the held-out questions, which is the most that any of these models can score"
    )
    return lines
