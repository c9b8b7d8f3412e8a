"""From a question to ``input_ids``: English in lower-case words, Chinese in characters, since it has no spaces."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

UNKNOWN = 0  # the id of every word that the training questions do not have; it also pads
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+(?:'[^\W_\u3400-\u9fff]+)?")


def split_words(question: str) -> list[str]:
    """The words of a question without punctuation, such as ["what", "color"] or ["什", "么", "颜", "色"]."""
    return _WORD.findall(unicodedata.normalize("NFKC", question).lower().replace("’", "'"))


def find_words(questions: Iterable[str]) -> list[str]:
    """All words of the training questions, the most frequent first. Word i has the id i + 1."""
    counts = Counter(word for question in questions for word in split_words(question))
    return sorted(counts, key=lambda word: (-counts[word], word))


class Words:
    """The vocabulary of questions."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.ids = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}

    def __len__(self) -> int:
        return len(self.words) + 1

    def encode(self, question: str) -> list[int]:
        """The ids of a question's words; one unknown word where it has none."""
        return [self.ids.get(word, UNKNOWN) for word in split_words(question)] or [UNKNOWN]


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoded questions as ``input_ids`` [B, T], padded with 0, and their lengths [B]."""
    lengths = torch.tensor([len(row) for row in rows])
    input_ids = torch.full((len(rows), int(lengths.max())), UNKNOWN)
    for number, row in enumerate(rows):
        input_ids[number, : len(row)] = torch.tensor(row)
    return input_ids, lengths
