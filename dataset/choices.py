"""Multiple choice: the options of a question, and which of them an answer chooses.

"A. red", "(A)", "A" and "red" are one answer to a question whose first option is red.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from dataset.normalise import normalise

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# "A.", "A)", "A:", "A、", "(A)", "（A）" after white space, a mark that ends the question, or the text's beginning.
_MARK = re.compile(r"(?:^|(?<=[\s?？!！:：.。,，;；]))(?:[(（]([A-Za-z])[)）][.:：]?|([A-Z])[)）.．:：、])[ \t]*")
_FIRST_MARK = re.compile(r"[Aa][)）.．:：、]")  # most questions have none, and this takes a tenth of the time
_LABEL_ONLY = re.compile(r"[(（\[\"']*([A-Za-z])[)）\]\"'.．:：,，、。]*")
_LABEL_FIRST = re.compile(r"[(（\[]*([A-Za-z])[)）\].．:：,，、]+\s*(.+)", re.DOTALL)
_PREAMBLE = re.compile(
    r"((so|therefore),? )?((the|my) )?((correct|right|best|final) )?(answer|option|choice)\b( is\b)?\s*:?\s*"
    r"|(正确)?(答案|选项)(是|为|选)?\s*[:：]?\s*|(我)?(选择|选)\s*[:：]?\s*",
    re.IGNORECASE,
)


def options_in(question: str) -> tuple[str, list[str]]:
    """The text before the options, and the options that a question lists: "Which? A. red B. blue", or each on a line.

    The labels must begin with A and follow each other. Where fewer than two do, the text is returned as it is.
    """
    if not _FIRST_MARK.search(question):
        return question, []
    chosen: list[re.Match[str]] = []
    for found in _MARK.finditer(question):
        label = (found[1] or found[2]).upper()
        if label == "A" and len(chosen) <= 1:  # "Is vitamin A. good? A. yes B. no" has an A before its options
            chosen = [found]
        elif chosen and len(chosen) < len(LABELS) and label == LABELS[len(chosen)]:
            chosen.append(found)
    if len(chosen) < 2:
        return question, []
    ends = [found.start() for found in chosen[1:]] + [len(question)]
    # An option ends with its line: an instruction may follow the last one.
    options = [question[m.end() : end].split("\n")[0].strip(" \t,，;；") for m, end in zip(chosen, ends, strict=True)]
    if not all(options):
        return question, []
    return question[: chosen[0].start()].strip(), options


def bare_options(options: Sequence[str]) -> list[str]:
    """Options of a data field, without the labels that some data sets write into them: "A. red" is "red"."""
    found = [_LABEL_FIRST.fullmatch(option.strip()) for option in options]
    if all(match and match[1].upper() == label for match, label in zip(found, LABELS, strict=False)):
        return [match[2].strip() for match in found if match]
    return [option.strip() for option in options]


def chosen_label(answer: str, options: Sequence[str], language: str) -> str | None:
    """The label of the option that an answer names by label, by text or by both; None if it names none, or two."""
    text = unicodedata.normalize("NFKC", answer).strip()
    by_text = {normalise(option, language): label for label, option in zip(LABELS, options, strict=False)}
    if normalise(text, language) in by_text:
        return by_text[normalise(text, language)]
    text = text[found.end() :].strip() if (found := _PREAMBLE.match(text)) else text
    labels = LABELS[: len(options)]
    if (only := _LABEL_ONLY.fullmatch(text)) and only[1].upper() in labels:
        return only[1].upper()
    if normalise(text, language) in by_text:
        return by_text[normalise(text, language)]
    if (first := _LABEL_FIRST.fullmatch(text)) and first[1].upper() in labels:
        named = by_text.get(normalise(first[2], language))
        return first[1].upper() if named in (None, first[1].upper()) else None
    return None
