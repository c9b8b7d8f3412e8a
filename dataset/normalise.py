"""The form in which two answers are compared: case, punctuation, articles and number words do not count.

Pure functions of text. The rules are written to the result file (:data:`NORMALISATION`), because they change scores.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

NORMALISATION = {
    "en": "NFKC, then VQA v2: lower case, punctuation, articles, number words up to ten, apostrophes of contractions",
    "zh": "NFKC, lower case, number words as digits, punctuation and white space dropped",
}

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
_WIDE_MARKS = str.maketrans("。、“”‘’", ".,\"\"''")  # those that NFKC leaves as they are

_DIGITS_ZH = {"零": 0, "〇": 0, **{word: n for n, word in enumerate("一二三四五六七八九", start=1)}, "两": 2, "兩": 2}
_UNITS_ZH = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "萬": 10_000, "亿": 10**8, "億": 10**8}
_NUMBER_ZH = re.compile(f"[{''.join([*_DIGITS_ZH, *_UNITS_ZH])}]+")


def vqa_text(text: str) -> str:
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


def _english_text(text: str) -> str:
    """:func:`vqa_text`, which knows ASCII punctuation only, of a text without full-width characters."""
    return vqa_text(unicodedata.normalize("NFKC", text).translate(_WIDE_MARKS))


def _chinese_text(text: str) -> str:
    """NFKC and lower case, numbers in digits, without white space and punctuation.

    "%" and marks between two digits (3.5, 3:30) are kept.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", unicodedata.normalize("NFKC", text).lower())
    text = _NUMBER_ZH.sub(lambda found: _in_digits(found[0]), text)
    marks = [c.isspace() or (c != "%" and unicodedata.category(c)[0] == "P") for c in text]
    in_number = {match.start() for match in re.finditer(r"(?<=\d)[.:/-](?=\d)", text)}
    return "".join(c for i, c in enumerate(text) if not marks[i] or i in in_number)


def _in_digits(word: str) -> str:
    """A Chinese number in digits: 三 is 3, 二十三 is 23, 二〇二四 is 2024; as it is if it is not a number (百, 千万一).

    The same characters elsewhere in an answer (三明治, a sandwich) change too, in all answers alike.
    """
    if all(c in _DIGITS_ZH for c in word):
        return "".join(str(_DIGITS_ZH[c]) for c in word)
    total = section = 0  # section: below 10,000
    digit, unit = None, 10**9  # unit: the last one, which the next is below
    for c in word:
        if c in _DIGITS_ZH:
            if digit:  # 一二百, "one or two hundred", is no number
                return word
            digit = _DIGITS_ZH[c]
        elif _UNITS_ZH[c] >= 10_000:  # 二十三万: multiplies all before it
            if not section and not digit:
                return word
            total, section, digit, unit = (total + section + (digit or 0)) * _UNITS_ZH[c], 0, None, _UNITS_ZH[c]
        elif _UNITS_ZH[c] >= unit or (digit is None and (c != "十" or section)):  # only 十 may come without a digit
            return word
        else:
            section, digit, unit = section + (1 if digit is None else digit) * _UNITS_ZH[c], None, _UNITS_ZH[c]
    if digit and word[-2] in _UNITS_ZH and unit > 10:  # 一百二 is 120
        digit *= unit // 10
    return str(total + section + (digit or 0))


@lru_cache(maxsize=100_000)  # most answers are among the same few
def normalise(text: str, language: str) -> str:
    """The form in which two answers are compared (see :data:`NORMALISATION`); ``language`` is "en" or "zh".

    An answer that is only articles or punctuation ("A", "?") keeps them; otherwise it would equal an empty answer.
    """
    short = _chinese_text(text) if language == "zh" else _english_text(text)
    return short or text.strip().lower()
