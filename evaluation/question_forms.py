"""Groups of questions that are worded alike: by their first words, or by their form, "is there a [color] [shape]"."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from dataset.question_types import COLOR_WORDS, SHAPE_WORDS, SIZE_WORDS, without_preamble

_CHINESE = re.compile(r"[\u3400-\u9fff]")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_ASKS_ZH = re.compile(r"为什么|为何|怎么|怎样|如何|谁|哪|什么|几|多少")
_MASKS = {"color": COLOR_WORDS, "shape": SHAPE_WORDS, "size": SIZE_WORDS}
_MASKS_ZH = {
    "color": r"[红橙黄绿蓝紫粉棕褐黑白灰]色?|[金银青橘]色",
    "shape": r"[圆方菱星心椭]+形|[长正]方形|[三四五六八]角[形星]|星星",
}


def frequent_names(candidates: Sequence[list[str]], smallest: int) -> set[str]:
    """Names of groups with at least ``smallest`` members; each item is in the first group of its own that is so large.

    ``candidates``: for each item the names of groups that it can be in, the narrowest first. Items of narrow groups
    that are too small are joined in wider ones.
    """
    kept: set[str] = set()
    left = [names for names in candidates if names]
    for depth in range(max(map(len, left), default=0)):
        count = Counter(names[min(depth, len(names) - 1)] for names in left)
        kept |= {name for name, number in count.items() if number >= smallest}
        left = [names for names in left if kept.isdisjoint(names)]
    return kept


def first_of(names: Sequence[str], kept: Collection[str]) -> str | None:
    """The narrowest of an item's groups among those of :func:`frequent_names`; None if it is in none."""
    return next((name for name in names if name in kept), None)


def begins_with(question: str) -> list[str]:
    """Names of groups that a question can be in by its words, the narrowest first.

    In English its first three words, its first two, its first. In Chinese, which asks anywhere in a sentence, the word
    that asks with the two characters after it, with one, and alone.
    """
    if _CHINESE.search(question):
        found = _ASKS_ZH.search(question)
        following = re.match(r"\w*", question[found.end() :]) if found else None
        pieces = [found[0] + following[0][:count] for count in (2, 1, 0)] if found and following else []
    else:
        words = _WORD.findall(without_preamble(question))[:3]
        pieces = [" ".join(words[:count]) for count in range(len(words), 0, -1)]
    return [f"{piece} ..." for piece in dict.fromkeys(pieces)]


def frequent_beginnings(questions: Collection[str]) -> set[str]:
    """Which of :func:`begins_with` are types of their own: those of at least 2 % of ``questions``, and of 20.

    With fewer, a comparison with a baseline decides nothing.
    """
    return frequent_names([begins_with(question) for question in questions], max(20, math.ceil(0.02 * len(questions))))


def question_forms(question: str) -> list[str]:
    """Forms that a question has in common with others, the narrowest first: "is there a [color] [shape]", then shorter.

    Words for colours, shapes and sizes are replaced by what they are.
    """
    if _CHINESE.search(question):
        masked = re.sub(r"[\s。？?！!.]+$", "", unicodedata.normalize("NFKC", question))
        for name, pattern in _MASKS_ZH.items():
            masked = re.sub(pattern, f"[{name}]", masked)
        units = re.findall(r"\[\w+\]|.", masked)
        pieces = ["".join(units), *("".join(units[:count]) + "..." for count in (6, 3) if len(units) > count)]
    else:
        words = _WORD.findall(without_preamble(question))
        units = [next((f"[{name}]" for name, known in _MASKS.items() if word in known), word) for word in words]
        pieces = [" ".join(units), *(" ".join(units[:count]) + " ..." for count in (4, 3, 2) if len(units) > count)]
    return list(dict.fromkeys(pieces))
