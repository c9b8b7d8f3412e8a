"""Answers that do not fit their questions: labels of another set, sentences where a word is asked, swapped columns.

The story this is for: the questions were those of VQA, the answers the captions of COCO. The loss fell, an accuracy of
92 % was printed, and the trained model answered "the" to every question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from dataset.doctor.examined import Asked, Examined
from dataset.doctor.finding import Finding, quoted, share_of

# Of the yes/no, count and colour questions. In 100 records of LLaVA, whose answers are sentences, 5 of 121 do not fit.
MOST_UNFIT = 0.2
MOST_EMPTY = 0.05  # answers that are one empty word, and answers that are questions
FEWEST = 10  # questions of which a share says something

_YES_NO = re.compile(
    r"\W*(yes|yeah|yep|no|nope|not|none|maybe|possibly|probably|likely|unlikely|unclear|unsure|unknown|unanswerable"
    r"|cannot|can't|both|neither|true|false|correct|incorrect)\b",
    re.IGNORECASE,
)
# 有吗 is answered by 有, 在吗 by 在: an answer that begins with a character of its question.
_YES_NO_ZH = re.compile(r"\W*[是不没有否对错无嗯可能会要在好]")
_NUMBER = re.compile(
    r"\d|[零〇一二两三四五六七八九十百千几多无没]"
    r"|\b(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    r"|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|hundred|hundreds|thousand|dozen|dozens|many|several|few"
    r"|couple|pair|multiple|numerous|some|lot|lots|no|none|nothing|nobody|half|single|both|unknown|unclear)\b",
    re.IGNORECASE,
)
_COLOR = re.compile(
    r"[红橙黄绿青蓝紫黑白灰粉棕褐金银色彩]"
    r"|(red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|gr[ae]y|beige|tan|gold|silver|maroon|navy"
    r"|teal|turquoise|cream|blond|brunette|dark|light|colou?r|clear|transparent|rainbow)",
    re.IGNORECASE,
)
_EMPTY = set("the a an of in on at to is are and or with it this that 的 了 在 一个 和 这 那 着 地 得".split())


def unfit_answers(data: Examined) -> Finding | None:
    """Yes/no questions without yes or no, counts without a number, colours without a colour; of each source."""
    checkable: dict[str, list[Asked]] = defaultdict(list)
    for asked in data.questions:
        if asked.type in _FITS:
            checkable[asked.source].append(asked)
    found = []
    for source, questions in checkable.items():
        unfit = [asked for asked in questions if not any(_FITS[asked.type](asked, text) for text in asked.answers)]
        if len(questions) >= FEWEST and len(unfit) > MOST_UNFIT * len(questions):
            found.append((source, questions, unfit))
    if not found:
        return None
    parts = [
        f"source {source}: {share_of(len(unfit), len(questions), 'yes/no, count and colour questions')} have an answer "
        "of another kind"
        for source, questions, unfit in found
    ]
    return Finding(
        "; ".join(parts),
        "look whether the annotations belong to these questions (captions, or another set's labels), and whether "
        "questions and answers are joined by the right id",
        [example for _, _, unfit in found for example in _examples(data, unfit)],
    )


def same_answer_to_all(data: Examined) -> Finding | None:
    """Pictures that get one sentence as the answer to several different questions."""
    of_picture: dict[tuple, list[Asked]] = defaultdict(list)
    for asked in data.questions:
        if asked.images and asked.type != "caption":
            of_picture[asked.images].append(asked)
    several = [group for group in of_picture.values() if len({asked.key for asked in group}) > 1]
    same = [g for g in several if len({asked.accepted for asked in g}) == 1 and not g[0].is_short]
    if len(several) < FEWEST or len(same) <= MOST_EMPTY * len(several):
        return None
    return Finding(
        f"{share_of(len(same), len(several), 'pictures')} with several questions have the same sentence as the answer "
        "to each: captions of the pictures, not answers",
        "use the annotations that answer these questions, or ask for descriptions (format: ali)",
        _examples(data, (group[0] for group in same)),
    )


def empty_words(data: Examined) -> Finding | None:
    """Answers that are one word without meaning, such as "the"."""
    return _answers_that(
        data,
        lambda asked, answer: answer.strip(" .。").lower() in _EMPTY,
        'are one word that says nothing, such as "the"',
        "look how the answers were cut out of the raw annotations: these look like the first words of captions",
    )


def answers_that_ask(data: Examined) -> Finding | None:
    """Answers with a question mark, to questions without one: the columns are swapped."""
    return _answers_that(
        data,
        lambda asked, answer: answer.rstrip().endswith(("?", "？")) and not asked.text.endswith(("?", "？")),
        "are questions, and what they answer is none",
        "look whether question and answer, or human and gpt, are swapped in the raw annotations",
    )


def _answers_that(data: Examined, wrong: Callable[[Asked, str], bool], problem: str, advice: str) -> Finding | None:
    found = [asked for asked in data.questions if all(wrong(asked, answer) for answer in asked.answers)]
    if len(data.questions) < FEWEST or len(found) <= MOST_EMPTY * len(data.questions):
        return None
    return Finding(f"{share_of(len(found), len(data.questions), 'answers')} {problem}", advice, _examples(data, found))


def _says_yes_or_no(asked: Asked, answer: str) -> bool:
    if asked.language == "zh":
        return bool(_YES_NO_ZH.match(answer)) or answer.strip()[:1] in asked.text
    return bool(_YES_NO.match(answer))


def _names_a_color(asked: Asked, answer: str) -> bool:
    """A colour's name, or a word or two: nobody can list all names of colours."""
    return bool(_COLOR.search(answer)) or (asked.language != "zh" and len(answer.split()) <= 2)


_FITS: dict[str, Callable[[Asked, str], bool]] = {
    "yes/no": _says_yes_or_no,
    "count": lambda asked, answer: bool(_NUMBER.search(answer)),
    "color": _names_a_color,
}


def _examples(data: Examined, questions: Iterable[Asked]) -> list[str]:
    return [f"{data.show(q.images)}: {quoted(q.text)} {quoted(q.answers[0])}" for q in questions]
