"""What formats of regions have in common: a name and its boxes become a question of one of two kinds.

    Where is the red bus?       <ref>the red bus</ref><box>...</box>
    <box>...</box> What is this?    the red bus

The numbers stay as the source writes them; dataset/boxes.py makes thousandths of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dataset.converters.base import Example, is_chinese, question_and_answers
from dataset.records import RecordError

WHERE, WHAT = "where", "what"  # the kinds, under "ask" of a record
TYPES = {WHERE: "grounding", WHAT: "region"}  # of question, for the scores

Raw = tuple[float, float, float, float]  # a box as the source writes it


def region_example(
    image: str,
    ask: str,
    names: Sequence[object],
    boxes: Sequence[Raw],
    *,
    article: bool = False,
    id: str | None = None,
    split: str | None = None,
) -> Example:
    """A question about the region of a picture.

    Args:
        ask: WHERE: for the boxes of ``names[0]``; WHAT: for a name of the boxes, each of ``names`` a reference answer.
        article: put "the" before an English name, such as that of a category.

    Raises:
        RecordError: there is no name.
    """
    texts = [text for name in names if (text := plain(name))]
    if not texts:
        raise RecordError("a region has no name")
    chinese = is_chinese(texts[0])
    named = f"the {texts[0]}" if article and not chinese else texts[0]
    written = "".join(write_raw(box) for box in boxes)
    if ask == WHERE:
        question = f"{named}在哪里？" if chinese else f"Where is {named}?"
        return question_and_answers(
            question, [f"<ref>{named}</ref>{written}"], [image], type=TYPES[ask], id=id, split=split
        )
    question = "这是什么？" if chinese else "What is this?"
    answers = list(dict.fromkeys(texts))
    return question_and_answers(f"{written} {question}", answers, [image], type=TYPES[ask], id=id, split=split)


def plain(name: object) -> str:
    """A name as it can be between marks: one line, without < and >; "" if it is not text."""
    return (
        " ".join(name.translate({ord("<"): " ", ord(">"): " "}).split()).strip(" .。") if isinstance(name, str) else ""
    )


def write_raw(box: Raw) -> str:
    return "<box>({},{}),({},{})</box>".format(*box)


def raw_box(value: Any) -> Raw:
    """Four finite numbers.

    Raises:
        RecordError: it is something else.
    """
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise RecordError("bbox is not four numbers")
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in value):
        raise RecordError("bbox is not four numbers")
    left, top, right, bottom = value
    return left, top, right, bottom


def raw_boxes(value: Any) -> list[Raw]:
    """One box, or a list of boxes.

    Raises:
        RecordError: it is neither.
    """
    several = isinstance(value, list) and value and all(isinstance(one, list) for one in value)
    return [raw_box(one) for one in (value if several else [value])]
