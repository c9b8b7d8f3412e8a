"""Which languages questions and answers are in, and whether that is what the records say."""

from __future__ import annotations

import re
from collections import Counter

from dataset.converters.base import is_chinese
from dataset.doctor.examined import Asked, Examined
from dataset.doctor.finding import Finding, quoted, share_of

MOST_MIXED = 0.02  # share of the questions; a Chinese question about an English sign is no fault
LEAST_OF_A_LANGUAGE = 0.02  # share of the conversations from which a language is learnt
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]{2}")
# Kana, Hangul, Cyrillic, Greek, Arabic, Hebrew, and the scripts of India and of South East Asia.
_OTHER = re.compile("[\u3040-\u30ff\uac00-\ud7af\u0370-\u052f\u0590-\u06ff\u0900-\u0eff]")


def script_of(text: str) -> str | None:
    """ "zh", "en" (any Latin script) or "other"; None for numbers and single letters."""
    if _OTHER.search(text):
        return "other"
    return "zh" if is_chinese(text) else "en" if _LATIN.search(text) else None


def answers_in_another_language(data: Examined) -> Finding | None:
    """Chinese questions with English answers, and the other way round."""
    mixed = []
    for asked in data.questions:
        spoken = {script_of(asked.text), *map(script_of, asked.answers)} - {None}
        if len(spoken) > 1:
            mixed.append(asked)
    if len(mixed) <= MOST_MIXED * len(data.questions):
        return None
    return Finding(
        f"{share_of(len(mixed), len(data.questions), 'questions')} have an answer in another language",
        "translate one side, or ask in the language of the answers: a model trained on both answers in either",
        _examples(mixed),
    )


def declared_language(data: Examined) -> Finding | None:
    """Sources whose ``language:`` is not that of their text, which decides how answers are compared."""
    wrong = [q for q in data.questions if script_of(q.text) not in (None, q.language)]
    if len(wrong) <= MOST_MIXED * len(data.questions):
        return None
    sources = ", ".join(f"{source} ({count:,})" for source, count in Counter(q.source for q in wrong).most_common(3))
    return Finding(
        f"{share_of(len(wrong), len(data.questions), 'questions')} are not in the language that they are marked as; "
        f"source {sources}",
        "set language: auto, en or zh for that source; answers in other languages are compared by the English rules",
        [f"marked {q.language}: {quoted(q.text)}" for q in wrong],
    )


def rare_language(data: Examined) -> Finding | None:
    """A language with too few conversations to be learnt, or with none in train."""
    in_all = data.count_by(lambda c: c["language"])
    train = Counter(c["language"] for _, c in data.conversations if c["split"] == "train")
    rare = [
        f"{language}: {share_of(train[language], train.total(), 'conversations of train')}, {count:,} in all"
        for language, count in in_all.items()
        if train and train[language] < LEAST_OF_A_LANGUAGE * train.total()
    ]
    if not rare:
        return None
    return Finding(
        f"a language is rare: {rare[0]}",
        "add conversations in it, or leave it out; its score would be that of the base model",
        rare[1:],
    )


def _examples(questions: list[Asked]) -> list[str]:
    return [f"{quoted(q.text)} {quoted(q.answers[0])} (source {q.source})" for q in questions]
