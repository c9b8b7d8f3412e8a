"""The same question about the same picture, with answers that have nothing in common."""

from __future__ import annotations

import re
from collections import defaultdict

from dataset.doctor.examined import Asked, Examined
from dataset.doctor.finding import NOTEWORTHY, Finding, quoted, share_of

# A question with one of these may mean another thing each time that it is asked.
_REFERS_BACK = re.compile(r"\b(it|he|she|they|him|her|them|this|that|these|those)\b|[它他她这那]", re.IGNORECASE)


def conflicting_answers(data: Examined) -> Finding | None:
    repeated: dict[tuple, list[Asked]] = defaultdict(list)
    for asked in data.short_questions:
        if not _REFERS_BACK.search(asked.text):
            repeated[asked.images, asked.key].append(asked)
    again = [group for group in repeated.values() if len(group) > 1]
    conflicts = [group for group in again if not frozenset.intersection(*(asked.accepted for asked in group))]
    if len(conflicts) < max(1, NOTEWORTHY * len(repeated)):
        return None
    return Finding(
        f"{share_of(len(conflicts), len(again), 'questions')} that are asked again about the same picture get answers "
        "that have nothing in common",
        "keep the right answer; if several are right, give them as the references of one question",
        [_shown(data, group) for group in conflicts],
    )


def _shown(data: Examined, group: list[Asked]) -> str:
    answers = dict.fromkeys(asked.answers[0] for asked in group)
    names = ", ".join(dict.fromkeys(asked.name for asked in group))
    return f"{data.show(group[0].images)}: {quoted(group[0].text)} {' or '.join(map(quoted, answers))} ({names})"
