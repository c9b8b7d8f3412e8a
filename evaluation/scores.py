"""How short answers are scored (exact match, VQA accuracy), and how sure a mean of scores is.

Pure functions of text, without torch. A metric is a function that gives each answer a score from 0 to 1, and an entry
in :data:`METRICS`. The rules that change a score are written to the result file (:data:`NORMALISATION`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

NORMALISATION = {
    "en": "VQA v2: lower case, punctuation, articles, number words up to ten, apostrophes of contractions",
    "zh": "NFKC, lower case, punctuation and white space dropped",
}

# ---------------------------------------------------------------------------------------------- normalisation

# What the official VQA v2 evaluator replaces: the same words with exactly one apostrophe left out.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_REPAIRED = {word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS for i, mark in enumerate(word) if mark == "'"}
_REPAIRED["somebody'd"] = "somebodyd"  # the official table has this one the wrong way round
_DIGITS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_DIGITS["none"] = "0"
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def _vqa_text(text: str) -> str:
    """An answer as the official VQA v2 evaluator rewrites it before comparing.

    A mark is deleted if it is next to a space anywhere in the answer, or if the answer has a number with a thousands
    comma; otherwise it becomes a space. Periods are kept only before a digit.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    beside_space = {mark for mark in _PUNCTUATION if f"{mark} " in text or f" {mark}" in text}
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if in_number or mark in beside_space else " ")
    text = _PERIOD.sub("", text)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def _chinese_text(text: str) -> str:
    """NFKC and lower case, without white space and punctuation, except "%" and marks between two digits (3.5, 3:30)."""
    text = re.sub(r"(?<=\d),(?=\d)", "", unicodedata.normalize("NFKC", text).lower())
    marks = [c.isspace() or (c != "%" and unicodedata.category(c)[0] == "P") for c in text]
    in_number = {match.start() for match in re.finditer(r"(?<=\d)[.:/-](?=\d)", text)}
    return "".join(c for i, c in enumerate(text) if not marks[i] or i in in_number)


@lru_cache(maxsize=100_000)  # most answers are among the same few
def normalise(text: str, language: str) -> str:
    """The form in which two answers are compared (see :data:`NORMALISATION`); ``language`` is "en" or "zh".

    An answer that is only articles or punctuation ("A", "?") keeps them; otherwise it would equal an empty answer.
    """
    short = _chinese_text(text) if language == "zh" else _vqa_text(text)
    return short or text.strip().lower()


# ---------------------------------------------------------------------------------------------- metrics


def exact_match(prediction: str, references: Iterable[str], language: str) -> bool:
    """Whether the answer equals any of the references after :func:`normalise`."""
    answer = normalise(prediction, language)
    return any(answer == normalise(reference, language) for reference in references)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The official VQA v2 accuracy, 0 to 1: min(people who gave it / 3, 1), averaged over leaving out each person.

    As in the official evaluator, if all ten answers are the same they are compared without normalisation: "Net." does
    not match ten times "net".
    """
    prediction, answers = (_trimmed(prediction), [_trimmed(answer) for answer in answers])
    if len(set(answers)) > 1:
        prediction, answers = _vqa_text(prediction), [_vqa_text(answer) for answer in answers]
    same = [answer == prediction for answer in answers]
    return sum(min((sum(same) - own) / 3, 1.0) for own in same) / len(same)


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@dataclass(frozen=True)
class Metric:
    """A score from 0 to 1 of one answer.

    ``score`` takes the answer, the reference answers and the language; ``applies`` says whether a question with these
    references can be scored; ``heading`` is the column in the printed table.
    """

    heading: str
    score: Callable[[str, Sequence[str], str], float]
    applies: Callable[[Sequence[str]], bool]


METRICS = {
    "exact_match": Metric("exact", exact_match, lambda references: True),
    "vqa_accuracy": Metric(
        "VQA", lambda answer, references, language: vqa_accuracy(answer, references), lambda refs: len(refs) == 10
    ),
}
MAIN_METRIC = "exact_match"  # the model is compared with the baselines by this one


# ---------------------------------------------------------------------------------------------- standard errors


def clustered_mean(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float]:
    """The mean and its standard error, clustered by group: questions about one image are not independent.

    The error of a single group is infinite: it says nothing about how another group would score.
    """
    mean = sum(values) / len(values)
    deviation: dict[Hashable, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        deviation[group] += value - mean
    count = len(deviation)
    if count < 2:
        return mean, math.inf
    return mean, math.sqrt(count / (count - 1) * sum(x * x for x in deviation.values())) / len(values)


def clearly_above(
    scores: Sequence[float], others: Sequence[float], groups: Sequence[Hashable]
) -> tuple[float, float, bool]:
    """Mean of ``scores`` less mean of ``others``, its standard error, and whether ``scores`` are clearly higher.

    Both lists score the same questions. Clearly higher means by more than two standard errors, which are those of the
    paired differences, clustered by group.
    """
    difference, error = clustered_mean([a - b for a, b in zip(scores, others, strict=True)], groups)
    return difference, error, difference > 0 and difference > 2 * error
