"""Questions whose answer follows from their words: a model that is trained on them need not look."""

from __future__ import annotations

from collections import Counter, defaultdict

from dataset.doctor.examined import Examined
from dataset.doctor.finding import Finding, quoted
from dataset.doctor.guessing import FOLDS, guessed_right

# Right guesses. A language-only model reached 0.44 on VQA v2 (Goyal et al. 2017), these guesses 0.40 on the demo.
MOST_IN_ALL = 0.6
MOST_OF_TYPE = 0.9  # of one type and language; of fair yes/no questions half are guessed
FEWEST = 50  # questions from which a share can be learnt


def answered_without_picture(data: Examined) -> Finding | None:
    questions = data.short_questions
    if len(questions) < FEWEST:
        return None
    right = guessed_right(questions)  # [N]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, asked in enumerate(questions):
        groups[f"{asked.type} ({asked.language})"].append(i)
    shares = {name: float(right[of].mean()) for name, of in groups.items() if len(of) >= FEWEST}
    easy = {name: share for name, share in shares.items() if share > MOST_OF_TYPE}
    if right.mean() <= MOST_IN_ALL and not easy:
        return None
    majority = Counter(answer for asked in questions for answer in asked.accepted).most_common(1)[0][1]
    shown = easy or shares
    guessed = [questions[i] for name in shown for i in groups[name] if right[i]]
    by_type = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shown.items(), key=lambda item: -item[1]))
    return Finding(
        f"{right.mean():.1%} of {len(questions):,} questions are answered right without the picture, from their words "
        f"({FOLDS}-fold cross-validation by picture; the most frequent answer: {majority / len(questions):.1%})"
        + (f": {by_type}" if by_type else ""),
        "ask the same questions about pictures where another answer is right, or leave such questions out: they teach "
        "the model not to look",
        [f"{quoted(asked.text)} {quoted(asked.answers[0])}" for asked in guessed],
    )
