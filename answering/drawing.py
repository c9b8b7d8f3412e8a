"""Boxes in pixels: read from the command line, found in answers, drawn on a picture. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from dataset.boxes import (
    Box,
    BoxError,
    Crop,
    in_plain_words,
    labelled_boxes,
    to_pixels,
    to_thousandths,
    view_of,
)

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
ASKED, ANSWERED = "#f08c00", "#dc143c"  # colours that are on few photos

Corners = tuple[int, int, int, int]


class Drawn(NamedTuple):
    """A box in pixels of the upright picture, and what it is called there."""

    label: str
    corners: Corners


class TakesBoxes(Protocol):
    """What is asked of a model."""

    @property
    def takes_boxes(self) -> bool: ...

    @property
    def crop(self) -> Crop | None: ...


def parse_boxes(
    texts: Sequence[str], sizes: Sequence[tuple[int, int]], crop: Crop | None
) -> tuple[list[Box], int | None]:
    """:func:`parse_box` of each text, and the index of the picture that they are on; None without texts.

    Raises:
        UserError: one cannot be used, or they are on different pictures.
    """
    found = [parse_box(text, sizes, crop) for text in texts]
    pictures = sorted({picture for _, picture in found})
    if len(pictures) > 1:
        first, second = (picture + 1 for picture in pictures[:2])
        raise UserError(f"--box: boxes on pictures {first} and {second}; a question is about boxes of one picture")
    return [box for box, _ in found], pictures[0] if pictures else None


def parse_box(text: str, sizes: Sequence[tuple[int, int]], crop: Crop | None) -> tuple[Box, int]:
    """:func:`asked_box` of ``left,top,right,bottom``, and the index of its picture.

    ``sizes`` are those of the pictures. ``2:left,top,right,bottom`` is on the second; without a number, on the last.

    Raises:
        UserError: it is not four numbers, empty, or outside what the tower is shown; or there is no such picture.
    """
    number, colon, corners = text.rpartition(":")
    try:
        picture = int(number) if colon else len(sizes)
        left, top, right, bottom = (float(side) for side in corners.split(","))
    except ValueError:
        raise UserError(f"--box {text}: expected left,top,right,bottom in pixels, such as 120,80,300,260") from None
    if not 1 <= picture <= len(sizes):
        raise UserError(f"--box {text}: no picture {picture}; there are {len(sizes)}, counted from 1")
    try:
        return asked_box((left, top, right, bottom), sizes[picture - 1], crop), picture - 1
    except UserError as error:
        raise UserError(f"--box {text}: {error}") from None


def asked_box(corners: tuple[float, float, float, float], size: tuple[int, int], crop: Crop | None) -> Box:
    """A box in pixels of the upright picture, which has ``size``, in thousandths of what the tower is shown.

    Raises:
        UserError: it is empty, or outside what the tower is shown.
    """
    try:
        return to_thousandths(corners, view_of(size, crop))
    except BoxError as error:
        found = str(error).removeprefix("turn with ").removesuffix(" dropped")
        raise UserError(f"{found}; the picture has {size[0]} x {size[1]} pixels") from None


def in_pixels(boxes: Sequence[Box], size: tuple[int, int], crop: Crop | None) -> list[Corners]:
    """Boxes in thousandths of what the tower is shown, in pixels of the upright picture, which has ``size``."""
    view = view_of(size, crop)
    return [to_pixels(box, view) for box in boxes]


def boxes_of_answer(answer: str, size: tuple[int, int], crop: Crop | None) -> list[Drawn]:
    """The boxes of an answer, in pixels of the upright picture that it is about."""
    view = view_of(size, crop)
    return [Drawn(label, to_pixels(box, view)) for label, box in labelled_boxes(answer)]


def in_plain_pixels(text: str, size: tuple[int, int] | None, crop: Crop | None, grows: bool = False) -> str:
    """A question or an answer in plain words, each box in pixels of the upright picture: [left, top, right, bottom].

    Without the picture's ``size``, the boxes are left out. ``grows``: see :func:`dataset.boxes.in_plain_words`.
    """
    view = view_of(size, crop) if size else None
    return in_plain_words(text, lambda box: str(list(to_pixels(box, view))) if view else "", grows)


def captions(labels: Sequence[str]) -> list[str]:
    """What is written at each box of an answer: its label, after its number where there are several boxes."""
    numbers = [str(number) for number in range(1, len(labels) + 1)] if len(labels) > 1 else [""] * len(labels)
    return [" ".join(filter(None, pair)) for pair in zip(numbers, labels, strict=True)]


def line_width(size: tuple[int, int]) -> int:
    """The width of a box's line in a picture that is drawn with ``size``, in pixels."""
    return max(2, round(max(size) / 300))


def box_fields(answer: str, image: Image.Image | None, model: TakesBoxes) -> dict[str, Any]:
    """``boxes`` of an answer for JSON, in pixels of its picture; {} where the model has no tokens for boxes."""
    if image is None or not model.takes_boxes:
        return {}
    found = boxes_of_answer(answer, image.size, model.crop)
    return {"boxes": [{"label": label, "box": list(corners)} for label, corners in found]}


def draw_boxes(image: Image.Image, asked: Sequence[Corners], answered: Sequence[Drawn]) -> Image.Image:
    """A copy of a picture with boxes: those asked about in orange, those of the answer in red, with their labels.

    Pillow's own font has no Chinese characters: such a label is left out, and several boxes are numbered.
    """
    copy = image.convert("RGB")
    draw, width = ImageDraw.Draw(copy), line_width(image.size)
    font = ImageFont.load_default(size=max(11, round(max(image.size) / 40)))
    for corners in asked:
        draw.rectangle(corners, outline=ASKED, width=width)
    texts = captions([label if label.isascii() else "" for label, _ in answered])
    for text, (_, corners) in zip(texts, answered, strict=True):
        draw.rectangle(corners, outline=ANSWERED, width=width)
        if text:
            left, top, right, bottom = draw.textbbox(corners[:2], text, font=font)
            draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=ANSWERED)
            draw.text(corners[:2], text, font=font, fill="white")
    return copy


def draw_answer(image: Image.Image, asked: Sequence[Box], answer: str, crop: Crop | None, file: Path) -> int:
    """Write a picture with the boxes that were asked about and those of the answer. Returns how many the answer has.

    Raises:
        UserError: the file cannot be written.
    """
    answered = boxes_of_answer(answer, image.size, crop)
    try:
        draw_boxes(image, in_pixels(asked, image.size, crop), answered).save(file)
    except OSError as error:
        raise UserError(f"--draw {file}: cannot be written ({error.strerror or error})") from None
    return len(answered)


def check_drawing(file: Path | None) -> None:
    """Raises UserError if a picture cannot be written under this name."""
    if file is not None and file.suffix.lower() not in ENDINGS:
        raise UserError(f"--draw {file}: expected a name that ends in {', '.join(ENDINGS)}")
