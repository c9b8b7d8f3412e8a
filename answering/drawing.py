"""Boxes in pixels: read from the command line, found in answers, drawn on a picture. Without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from dataset.boxes import Box, BoxError, Crop, labelled_boxes, to_pixels, to_thousandths, view_of

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
ASKED, ANSWERED = (240, 140, 0), (220, 20, 60)  # colours that are on few photos


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


def parse_box(text: str, size: tuple[int, int], crop: Crop | None) -> Box:
    """``left,top,right,bottom`` in pixels of the upright picture, in thousandths of what the tower is shown.

    Raises:
        UserError: it is not four numbers, empty, or outside what the tower is shown.
    """
    try:
        left, top, right, bottom = (float(number) for number in text.split(","))
        return to_thousandths((left, top, right, bottom), view_of(size, crop))
    except BoxError as error:
        found = str(error).removeprefix("turn with ").removesuffix(" dropped")
        raise UserError(f"--box {text}: {found}; the picture has {size[0]} x {size[1]} pixels") from None
    except ValueError:
        raise UserError(f"--box {text}: expected left,top,right,bottom in pixels, such as 120,80,300,260") from None


def boxes_of_answer(answer: str, size: tuple[int, int], crop: Crop | None) -> list[Drawn]:
    """The boxes of an answer, in pixels of the upright picture that it is about."""
    view = view_of(size, crop)
    return [Drawn(label, to_pixels(box, view)) for label, box in labelled_boxes(answer)]


def box_fields(answer: str, images: Sequence[Image.Image], model: TakesBoxes) -> dict[str, Any]:
    """``boxes`` of an answer for JSON, in pixels of the last picture; {} where the model has no tokens for boxes."""
    if not (model.takes_boxes and images):
        return {}
    found = boxes_of_answer(answer, images[-1].size, model.crop)
    return {"boxes": [{"label": label, "box": list(corners)} for label, corners in found]}


def draw_boxes(image: Image.Image, asked: Iterable[Corners], answered: Sequence[Drawn]) -> Image.Image:
    """A copy of a picture with boxes: those asked about in orange, those of the answer in red, with their labels.

    Pillow's own font has no Chinese characters: such a label is left out, and several boxes are numbered.
    """
    copy = image.convert("RGB")
    draw, width = ImageDraw.Draw(copy), max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(size=max(11, round(max(image.size) / 40)))
    for corners in asked:
        draw.rectangle(corners, outline=ASKED, width=width)
    for number, (label, corners) in enumerate(answered, start=1):
        draw.rectangle(corners, outline=ANSWERED, width=width)
        words = [str(number)] * (len(answered) > 1) + [label] * (label.isascii() and bool(label))
        if text := " ".join(words):
            left, top, right, bottom = draw.textbbox(corners[:2], text, font=font)
            draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=ANSWERED)
            draw.text(corners[:2], text, font=font, fill="white")
    return copy


def draw_answer(image: Image.Image, asked: Sequence[Box], answer: str, crop: Crop | None, file: Path) -> int:
    """Write a picture with the boxes that were asked about and those of the answer. Returns how many the answer has.

    Raises:
        UserError: the file cannot be written.
    """
    view = view_of(image.size, crop)
    answered = boxes_of_answer(answer, image.size, crop)
    try:
        draw_boxes(image, [to_pixels(box, view) for box in asked], answered).save(file)
    except OSError as error:
        raise UserError(f"--draw {file}: cannot be written ({error.strerror or error})") from None
    return len(answered)


def check_drawing(file: Path | None) -> None:
    """Raises UserError if a picture cannot be written under this name."""
    if file is not None and file.suffix.lower() not in ENDINGS:
        raise UserError(f"--draw {file}: expected a name that ends in {', '.join(ENDINGS)}")
