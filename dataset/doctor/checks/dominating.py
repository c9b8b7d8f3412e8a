"""One answer that is right so often that a model learns to give it and no other."""

from __future__ import annotations

from collections import Counter, defaultdict

from dataset.doctor.examined import Asked, Examined
from dataset.doctor.finding import Finding, quoted

MOST_IN_ALL = 0.5  # of all questions that are not yes/no; the demo's most frequent answer, 1, has 14 %
MOST_OF_TYPE = 0.8  # of the questions of one type and language; 1 has 62 % of the demo's counts
FEWEST = 20  # questions of which a share says something


def dominating_answer(data: Examined) -> Finding | None:
    groups: dict[str, list[Asked]] = defaultdict(list)
    for asked in data.short_questions:
        groups[f"{asked.type} ({asked.language})"].append(asked)
        if asked.type != "yes/no":
            groups["all but yes/no"].append(asked)
    found = []
    for name, questions in groups.items():
        answer, count = Counter(a for asked in questions for a in asked.accepted).most_common(1)[0]
        share = count / len(questions)
        if len(questions) >= FEWEST and share > (MOST_IN_ALL if name == "all but yes/no" else MOST_OF_TYPE):
            found.append((share, f"{name}: {quoted(answer)} is right for {share:.1%} of {len(questions):,} questions"))
    if not found:
        return None
    found.sort(reverse=True)
    return Finding(
        f"one answer dominates: {found[0][1]}",
        "give fewer of the questions with that answer, or more of the others; a model that always says it would score "
        "as much",
        [line for _, line in found[1:]],
    )
