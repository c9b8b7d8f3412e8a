"""Boxes in pictures: one neutral form in the data and the prompt, and what becomes it or comes from it.

    Where is the red bus?   ->  <ref>the red bus</ref><box>(120,80),(300,260)</box>
    <box>(120,80),(300,260)</box> What is this?
    Picture 1: <box>(120,80),(300,260)</box> What is this?

Corners are left, top, right, bottom: whole numbers in [0, 1000), thousandths of the picture as the tower is shown it.
That picture is upright, and cropped where the tower's processor crops. A box belongs to the last picture before it, or
to the one that is named directly before it, as in the third line. Numbers of pictures begin with 1.
Only sources that declare ``boxes`` and ``ask.py --box`` make the four marks. In all other text they are spread out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from settings import Source

MARKS = ("<ref>", "</ref>", "<box>", "</box>")
LARGEST = 999  # thousandths: the right and the lower edge

Box = tuple[int, int, int, int]  # in thousandths
Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels

MENDED_REVERSED = "box with its corners in another order, which were sorted"
MENDED_CUT = "box that reaches beyond its picture, which was cut"
REJECTED_EMPTY = "turn with an empty box dropped"
REJECTED_OUTSIDE = "turn with a box outside its picture dropped"
REJECTED_NUMBERS = "turn with a box that is not four numbers dropped"
REJECTED_NO_PICTURE = "turn with a box but no picture dropped"

_MARK = re.compile(r"<(/?(?:ref|box))>", re.IGNORECASE)
_NEUTRAL = re.compile(r"<ref>([^<>]*)</ref>|<box>\((\d{1,3}),(\d{1,3})\),\((\d{1,3}),(\d{1,3})\)</box>")
_NAME = re.compile(r"Picture (\d{1,4}): ?")
_LEADING = re.compile(
    rf"(?:{_NAME.pattern})?(?P<boxes>(?:<box>\(\d{{1,3}},\d{{1,3}}\),\(\d{{1,3}},\d{{1,3}}\)</box>)+) "
)
_UNFINISHED = re.compile(r"<box>[^<>]*(?:</[box]*)?$")  # a box at the end of an answer that was stopped
# or of one in progress, whose marks grow too
_BEGUN = re.compile(r"<box>[^<>]*(?:<[/box]*)?$|<(?:/?[refbox]*)?$", re.IGNORECASE)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"
# What texts of published data have: Qwen-VL's marks, Qwen2-VL's tokens, LLaVA's brackets.
_WRITTEN = re.compile(
    r"<ref>(?P<ref>[^<>]*)</ref>|<\|object_ref_start\|>(?P<ref2>[^<>]*)<\|object_ref_end\|>"
    r"|<box>(?P<box>[^<>]*)</box>|<\|box_start\|>(?P<box2>[^<>]*)<\|box_end\|>"
    rf"|\[\s*(?P<bracket>{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\s*\]",
    re.IGNORECASE,
)


class BoxError(ValueError):
    """A box that cannot be used; the message is one of the reasons above."""


class Labelled(NamedTuple):
    """A box in a text, and the text of the ``<ref>`` before it, "" without one."""

    label: str
    box: Box


class Found(NamedTuple):
    """A box, its label, and the characters [start, end) that write both. Boxes with one label begin where it does."""

    label: str
    box: Box
    start: int
    end: int


# ---------------------------------------------------------------------------------------------- the neutral form


def spread_marks(text: str) -> str:
    """Text without the four marks: ``<box>`` becomes ``< box >``. Only spaces are added."""
    return _MARK.sub(r"< \1 >", text)


def write_box(box: Box) -> str:
    left, top, right, bottom = box
    return f"<box>({left},{top}),({right},{bottom})</box>"


def ask_about(boxes: Iterable[Box], question: str, number: int | None = None) -> str:
    """A question about parts of a picture: the boxes come before its text.

    ``number`` names their picture; None: the last one before the question.
    """
    name = "" if number is None else f"Picture {number}: "
    return f"{name}{''.join(map(write_box, boxes))} {question}"


def asked_about(question: str) -> tuple[list[Box], str]:
    """Undo :func:`ask_about`; no boxes where a question begins with none."""
    found = _LEADING.match(question)
    return (boxes_in(found["boxes"]), question[found.end() :]) if found else ([], question)


def picture_asked_about(question: str) -> int | None:
    """The number of the picture that is named before a question's boxes; None where none is."""
    found = _LEADING.match(question)
    return int(found[1]) if found and found[1] else None


def find_boxes(text: str) -> list[Found]:
    """The boxes of a text in the neutral form, in order. Boxes after the same ``<ref>`` share its label."""
    found, label, start, end = [], "", 0, 0
    for match in _NEUTRAL.finditer(text):
        if match[1] is not None:
            label, start = match[1], match.start()
        else:
            if match.start() != end:
                label = ""
            if not label:
                start = match.start()
            if (box := _box_of(match)) is not None:
                found.append(Found(label, box, start, match.end()))
        end = match.end()
    return found


def _box_of(match: re.Match[str]) -> Box | None:
    """The corners of a box that ``_NEUTRAL`` found; None where they are in another order: a model may write any."""
    left, top, right, bottom = (int(match[number]) for number in range(2, 6))
    return (left, top, right, bottom) if left < right and top < bottom else None


def labelled_boxes(text: str) -> list[Labelled]:
    """:func:`find_boxes` without where they are written."""
    return [Labelled(found.label, found.box) for found in find_boxes(text)]


def markup_of(text: str, grows: bool = False) -> list[tuple[int, int]]:
    """The characters [start, end) of a text that a reader who sees the boxes drawn need not see.

    These are all marks and, after a label, the numbers. A box without a label keeps its numbers, and so does one that
    cannot be drawn. At the end of a text that ``grows``, they are also what may become a mark or a box.
    """
    hidden, end = [], -1
    for match in _NEUTRAL.finditer(text):
        if match[1] is not None:
            end = match.end()
        elif match.start() == end and _box_of(match):
            hidden.append(match.span())
            end = match.end()
    if unfinished := (_BEGUN if grows else _UNFINISHED).search(text):
        hidden.append(unfinished.span())
    marks = [mark.span() for mark in _MARK.finditer(text)]
    return sorted(hidden + [mark for mark in marks if not any(start <= mark[0] < end for start, end in hidden)])


def in_plain_words(text: str, written: Callable[[Box], str], grows: bool = False) -> str:
    """A text in the neutral form for people: without marks, each box as ``written`` writes it ("": not at all).

    A box that cannot be drawn keeps its numbers. The end of a text that ``grows`` is left out while it may become a
    mark or a box, so that each longer text begins as the one before.
    """
    plain, end = "", 0
    for match in _NEUTRAL.finditer(text):
        plain += text[end : match.start()]
        end = match.end()
        box = _box_of(match) if match[1] is None else None
        words = written(box) if box else match[1] or match[0]
        plain += f" {words}" if box and words and plain and not plain[-1].isspace() else words
    unfinished = _BEGUN if grows else _UNFINISHED
    return _MARK.sub("", plain + unfinished.sub("", text[end:]))


def boxes_in(text: str) -> list[Box]:
    return [labelled.box for labelled in labelled_boxes(text)]


def without_boxes(text: str) -> str:
    """A text in the neutral form without boxes and marks, for comparing questions."""
    if not _MARK.search(text):
        return text
    return " ".join(re.sub(r"<box>[^<>]*</box>|</?ref>", " ", text).split())


# ---------------------------------------------------------------------------------------------- the picture


class PictureSize(NamedTuple):
    """The size of a picture's file as it is stored, in pixels, and its EXIF orientation, 1 to 8."""

    width: int
    height: int
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


class Crop(NamedTuple):
    """What CLIP's processor does: the shorter side becomes ``shortest`` pixels, then the middle square is kept."""

    shortest: int
    side: int


class View(NamedTuple):
    """The part of an upright picture that the tower is shown, in the picture's pixels."""

    left: float
    top: float
    width: float
    height: float


def crop_of(processor: dict[str, Any]) -> Crop | None:
    """What a processor cuts off, from the content of its preprocessor_config.json; None: nothing (SigLIP)."""
    kind = str(processor.get("image_processor_type", processor.get("feature_extractor_type", "")))
    if not processor.get("do_center_crop", kind.startswith("CLIP")):
        return None
    size, crop = processor.get("size", 224), processor.get("crop_size", 224)
    shortest = size.get("shortest_edge", 224) if isinstance(size, dict) else size
    return Crop(int(shortest), int(crop["height"] if isinstance(crop, dict) else crop))


def view_of(size: tuple[int, int], crop: Crop | None) -> View:
    """``size`` is the width and height of the upright picture."""
    width, height = size
    if crop is None:
        return View(0.0, 0.0, width, height)
    side = crop.side * min(width, height) / crop.shortest
    return View((width - side) / 2, (height - side) / 2, side, side)


def to_thousandths(corners: Corners, view: View, changes: Counter[str] | None = None) -> Box:
    """A box in pixels of the upright picture, in thousandths of what the tower is shown.

    Corners in another order are sorted, and what is beyond the view is cut off; ``changes`` counts both. A box
    narrower than a thousandth becomes one thousandth wide.

    Raises:
        BoxError: it is empty, outside the view, or not of finite numbers.
    """
    if not all(map(math.isfinite, corners)):
        raise BoxError(REJECTED_NUMBERS)
    left, right = sorted((corners[0], corners[2]))
    top, bottom = sorted((corners[1], corners[3]))
    changes = Counter() if changes is None else changes
    if (left, top) != tuple(corners[:2]):
        changes[MENDED_REVERSED] += 1
    if left == right or top == bottom:
        raise BoxError(REJECTED_EMPTY)
    sides = [(left - view.left, right - view.left, view.width), (top - view.top, bottom - view.top, view.height)]
    if any(low >= size or high <= 0 for low, high, size in sides):
        raise BoxError(REJECTED_OUTSIDE)
    half = 0.0005 * max(view.width, view.height)  # what rounding alone can give
    if any(low < -half or high > size + half for low, high, size in sides):
        changes[MENDED_CUT] += 1
    (left, right), (top, bottom) = (_in_thousandths(*side) for side in sides)
    return left, top, right, bottom


def _in_thousandths(low: float, high: float, size: float) -> tuple[int, int]:
    first = min(LARGEST - 1, max(0, round(1000 * low / size)))
    return first, min(LARGEST, max(first + 1, round(1000 * high / size)))


def to_pixels(box: Box, view: View) -> tuple[int, int, int, int]:
    """Thousandths of what the tower is shown, in pixels of the upright picture. 999 is its edge."""
    share = [1.0 if number == LARGEST else number / 1000 for number in box]
    left, right = (round(view.left + share[i] * view.width) for i in (0, 2))
    top, bottom = (round(view.top + share[i] * view.height) for i in (1, 3))
    return left, top, right, bottom


def upright(corners: Corners, size: PictureSize) -> Corners:
    """A box in pixels of the stored picture, in pixels of the picture turned as its EXIF orientation says."""
    (x1, y1, x2, y2), w, h = corners, size.width, size.height
    return {
        2: (w - x2, y1, w - x1, y2),
        3: (w - x2, h - y2, w - x1, h - y1),
        4: (x1, h - y2, x2, h - y1),
        5: (y1, x1, y2, x2),
        6: (h - y2, x1, h - y1, x2),
        7: (h - y2, w - x2, h - y1, w - x1),
        8: (y1, w - x2, y2, w - x1),
    }.get(size.orientation, corners)


# ---------------------------------------------------------------------------------------------- a source's boxes


@dataclass
class SourceBoxes:
    """The boxes of one record's texts, as its source declares them.

    ``size_of`` gives the size of the record's n-th picture; it is asked only where there is a box.
    """

    unit: str  # pixels, unit (shares of the sides), 0-999 or 0-1000
    order: str  # xyxy or xywh
    picture: str  # upright, stored, or padded: below what the numbers refer to
    crop: Crop | None
    size_of: Callable[[int], PictureSize]

    def neutral(self, text: str, picture: int, changes: Counter[str], clean: Callable[[str], str]) -> str:
        """A text of the source in the neutral form. ``picture`` is the number of the last picture before the text.

        A box directly after "Picture 1: " is of that picture. What is not a mark or a box goes through ``clean``, which
        spreads out control tokens.

        Raises:
            BoxError: a box cannot be used.
        """
        pieces, end, named = [], 0, picture
        for found in _WRITTEN.finditer(text):
            if between := text[end : found.start()]:
                name = re.search(f"{_NAME.pattern}$", between)
                named = min(int(name[1]) - 1, picture) if name and int(name[1]) else picture
            pieces.append(clean(between))
            end = found.end()
            label = next((found[name] for name in ("ref", "ref2") if found[name] is not None), None)
            if label is not None:
                pieces.append(f"<ref>{clean(' '.join(label.split()))}</ref>")
                continue
            inside = next(found[name] for name in ("box", "box2", "bracket") if found[name] is not None)
            pieces.append(write_box(self.box(_numbers(inside), named, changes)))
        return "".join([*pieces, clean(text[end:])])

    def box(self, numbers: Sequence[float], picture: int, changes: Counter[str]) -> Box:
        """Four numbers of the source as a box in thousandths.

        Raises:
            BoxError: it cannot be used.
        """
        if picture < 0:
            raise BoxError(REJECTED_NO_PICTURE)
        x1, y1, x2, y2 = numbers
        if self.order == "xywh":
            x2, y2 = x1 + x2, y1 + y2
        size = self.size_of(picture)
        width, height = (size.width, size.height) if self.picture == "stored" else size.upright
        x0 = y0 = 0
        if self.picture == "padded":  # as LLaVA pads: to a square, the picture in the middle
            side = max(width, height)
            x0, y0, width, height = (side - width) // 2, (side - height) // 2, side, side
        sx, sy = (1.0, 1.0) if self.unit == "pixels" else (float(width), float(height))
        if self.unit in ("0-999", "0-1000"):
            sx, sy = sx / 1000, sy / 1000
        corners = (x1 * sx - x0, y1 * sy - y0, x2 * sx - x0, y2 * sy - y0)
        if self.picture == "stored":
            corners = upright(corners, size)
        return to_thousandths(corners, view_of(size.upright, self.crop), changes)


def source_boxes(
    source: Source, order: str | None, crop: Crop | None, size_of: Callable[[int], PictureSize]
) -> SourceBoxes | None:
    """None for a source that declares no boxes. ``order`` is that of its format, for ``box_format: null``."""
    if source.boxes is None:
        return None
    return SourceBoxes(source.boxes, source.box_format or order or "xyxy", source.box_picture, crop, size_of)


def _numbers(inside: str) -> list[float]:
    found = [float(number) for number in re.findall(_NUMBER, inside)]
    if len(found) != 4 or re.search(r"[^\s\d.,()\[\]eE+-]", inside):
        raise BoxError(REJECTED_NUMBERS)
    return found
