"""The answers that a model chooses among: the commonest of the training split, by language."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch

from dataset.doctor.examined import Asked
from dataset.normalise import normalise

Key = tuple[str, str]  # language and normalised answer: "3" is written "three" in English and "三" in Chinese
PEOPLE = 10  # whose answers VQA keeps of each question


def find_answers(questions: Iterable[Asked], most: int) -> list[Key]:
    """The ``most`` frequent answers as (language, the way in which each is written most often)."""
    counts: Counter[Key] = Counter()
    written: dict[Key, Counter[str]] = defaultdict(Counter)
    for asked in questions:
        for answer in asked.answers:
            key = (asked.language, normalise(answer, asked.language))
            counts[key] += 1
            written[key][answer.strip()] += 1
    chosen = sorted(counts, key=lambda key: (-counts[key], key))[:most]
    return [(key[0], min(written[key], key=lambda text: (-written[key][text], text))) for key in chosen]


class Answers:
    """The vocabulary of answers."""

    def __init__(self, answers: Sequence[Sequence[str]]) -> None:
        self.answers = [(language, text) for language, text in answers]
        self.ids = {(language, normalise(text, language)): i for i, (language, text) in enumerate(self.answers)}

    def __len__(self) -> int:
        return len(self.answers)

    def text(self, number: int) -> str:
        return self.answers[number][1]

    def known_share(self, questions: Sequence[Asked]) -> float:
        """The share of the questions of which at least one reference answer is in the vocabulary."""
        known = sum(bool(self.votes(asked)) for asked in questions)
        return known / max(1, len(questions))

    def votes(self, asked: Asked) -> dict[int, float]:
        """The share of a question's reference answers that each known answer has: of ten people, tenths."""
        votes: dict[int, float] = defaultdict(float)
        for answer in asked.answers:
            number = self.ids.get((asked.language, normalise(answer, asked.language)))
            if number is not None:
                votes[number] += 1 / len(asked.answers)
        return dict(votes)

    def score(self, chosen: int, asked: Asked) -> float:
        """What the held-out accuracy gives a choice: 1 for a reference, of ten people a third for each, at most 1."""
        share = self.votes(asked).get(chosen, 0.0)
        return min(1.0, share * PEOPLE / 3) if len(asked.answers) == PEOPLE else float(share > 0)


def soft_targets(votes: Sequence[dict[int, float]], answers: int) -> torch.Tensor:
    """The votes for each answer, float32 [B, A]. A row adds up to less than 1 where votes are for unknown answers."""
    targets = torch.zeros(len(votes), answers)
    for row, own in enumerate(votes):
        targets[row, list(own)] = torch.tensor(list(own.values()))
    return targets


def soft_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross entropy of logits [B, A] with soft targets [B, A], the mean over the batch, in nats."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()
