"""Answering from the words of a question alone, by cross-validation: what can be had without looking.

The guess is the most frequent answer to the same text if the text was asked twice or more about other pictures, and
else naive Bayes over its words: the answer a with the highest log p(a) + sum of log p(word | a), smoothed by 0.1.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dataset.doctor.examined import Asked

FOLDS = 5
_ANSWERS = 200  # the most frequent ones are guessed, the others are not
_WORDS = 20_000
_SMOOTHING = 0.1
_BATCH = 1_000  # questions at a time: 1,000 x 20 words x 200 answers x 4 bytes = 16 MB
_WORD = re.compile(r"[^\W\d_\u3400-\u9fff]+|\d+|[\u3400-\u9fff]")


def guessed_right(questions: Sequence[Asked]) -> np.ndarray:
    """bool [N]: whether the guess for each question is one of its answers, learnt from questions on other pictures."""
    answers = Counter(answer for asked in questions for answer in asked.accepted).most_common(_ANSWERS)
    number = {answer: i for i, (answer, _) in enumerate(answers)}
    # Learnt is the most frequent of a question's answers; -1: none of them is frequent.
    labels = np.array([min((number[a] for a in q.accepted if a in number), default=-1) for q in questions])  # [N]
    folds = np.array([_fold(asked) for asked in questions])  # [N]
    words, starts = _word_numbers(questions)
    guesses = np.full(len(questions), -1)  # [N]
    for fold in range(FOLDS):
        inside = folds == fold
        if not (labels[~inside] >= 0).any():
            continue  # nothing to learn from
        likely = _likelihoods(words, starts, np.where(inside, -1, labels))
        for part in np.array_split(np.flatnonzero(inside), max(1, inside.sum() // _BATCH)):
            guesses[part] = _best(likely, words, starts, part)
        _use_same_texts(questions, labels, inside, guesses)
    names = [answer for answer, _ in answers]
    return np.array([i >= 0 and names[i] in q.accepted for i, q in zip(guesses, questions, strict=True)], dtype=bool)


def _fold(asked: Asked) -> int:
    """By the first picture: questions about one picture are never on both sides."""
    return hashlib.blake2b(str(asked.images[:1]).encode(), digest_size=4).digest()[0] % FOLDS


def _word_numbers(questions: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray]:
    """The words of all questions and their pairs of neighbours, as numbers, one question after another.

    Number 0 is in every question, for what is learnt without words. What occurs once in all is left out.

    Returns:
        words, int64 [T]; and where the words of each question begin, int64 [N + 1].
    """
    split = []
    for asked in questions:
        words = _WORD.findall(asked.key)
        split.append({*words, *map(" ".join, zip(words, words[1:], strict=False))})
    frequent = Counter(word for words in split for word in words).most_common(_WORDS)
    number = {word: i for i, (word, count) in enumerate(frequent, start=1) if count > 1}
    rows = [[0, *sorted(number[word] for word in words if word in number)] for words in split]
    starts = np.cumsum([0, *map(len, rows)])
    return np.array([word for row in rows for word in row], dtype=np.int64), starts


def _likelihoods(words: np.ndarray, starts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p(word | answer), float32 [W, A]; row 0 is log p(answer). Questions with the label -1 are not learnt from."""
    repeated = np.repeat(labels, np.diff(starts))  # [T]
    learnt = repeated >= 0
    size = int(words.max(initial=0)) + 1
    counts = np.bincount(words[learnt] * _ANSWERS + repeated[learnt], minlength=size * _ANSWERS)
    counts = counts.reshape(size, _ANSWERS).astype(np.float32)
    likely = np.log((counts + _SMOOTHING) / (counts[0] + _SMOOTHING * size))
    likely[0] = np.log(counts[0] + 1e-6)  # an answer that was never given is never guessed
    return likely


def _best(likely: np.ndarray, words: np.ndarray, starts: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """The most likely answer to each of some questions, int64 [Q]."""
    chosen = [words[starts[i] : starts[i + 1]] for i in questions]
    if not chosen:
        return np.zeros(0, dtype=np.int64)
    begin = np.cumsum([0, *map(len, chosen[:-1])])
    return np.add.reduceat(likely[np.concatenate(chosen)], begin).argmax(axis=1)  # of [Q, A]


def _use_same_texts(questions: Sequence[Asked], labels: np.ndarray, inside: np.ndarray, guesses: np.ndarray) -> None:
    """Write the most frequent answer to the same text into ``guesses``, where it was asked at least twice elsewhere."""
    of_text: dict[str, Counter[int]] = {}
    for asked, label, held in zip(questions, labels.tolist(), inside.tolist(), strict=True):
        if not held and label >= 0:
            of_text.setdefault(asked.key, Counter())[label] += 1
    for i in np.flatnonzero(inside).tolist():
        counts = of_text.get(questions[i].key)
        if counts and counts.total() > 1:
            guesses[i] = counts.most_common(1)[0][0]
